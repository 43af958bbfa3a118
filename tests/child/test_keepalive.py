"""The socket options that are set. tests/network shows that the kernel acts on them."""

import socket
import struct

import pytest

from lonc.child.keepalive import Keepalive, since_acknowledgement, since_data, unanswered

OPTIONS = (
    socket.TCP_USER_TIMEOUT,
    socket.TCP_KEEPIDLE,
    socket.TCP_KEEPINTVL,
    socket.TCP_KEEPCNT,
)


@pytest.fixture
def pair():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
    with ours, theirs:
        yield ours, theirs


def options(sock):
    on = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return (on, *(sock.getsockopt(socket.IPPROTO_TCP, each) for each in OPTIONS))


def test_a_connection_with_a_request_has_a_user_timeout_and_is_probed_often(pair):
    Keepalive(pair[0], 20.0, 60.0)
    assert options(pair[0]) == (1, 20000, 5, 1, 15)


def test_one_with_a_large_request_has_no_user_timeout(pair):
    keepalive = Keepalive(pair[0], 20.0, 60.0)
    keepalive.watch_large_request()
    assert options(pair[0]) == (1, 0, 5, 1, 15)


def test_a_large_request_after_a_rest_has_no_user_timeout_until_the_next_rest(pair):
    keepalive = Keepalive(pair[0], 20.0, 60.0)
    keepalive.rest()
    keepalive.watch_large_request()
    keepalive.end_rest()
    assert keepalive.large
    assert options(pair[0]) == (1, 0, 5, 1, 15)
    keepalive.rest()
    assert not keepalive.large
    keepalive.end_rest()
    assert options(pair[0])[1] == 20000


def test_four_checks_fall_into_the_peer_timeout(pair):
    assert Keepalive(pair[0], 20.0, 60.0).check_interval == 5.0


@pytest.mark.parametrize(("peer_timeout", "idle"), [(20.0, 60.0), (1.0, 1.0), (600.0, 32000.0)])
def test_a_vanished_idle_peer_is_found_within_the_sum_of_both_times(pair, peer_timeout, idle):
    keepalive = Keepalive(pair[0], peer_timeout, idle)
    keepalive.rest()
    on, user_timeout, first, interval, count = options(pair[0])
    assert (on, user_timeout) == (1, 0)
    assert first + interval * count <= peer_timeout + idle
    keepalive.end_rest()
    assert options(pair[0])[1] == peer_timeout * 1000


def test_without_a_time_an_idle_one_is_not_probed_and_one_with_a_request_is(pair):
    keepalive = Keepalive(pair[0], 20.0, 0.0)
    keepalive.rest()
    assert options(pair[0])[:2] == (0, 0)
    keepalive.end_rest()
    assert options(pair[0])[:2] == (1, 20000)


def test_lost_packets_are_sent_again_at_a_steady_rate(pair):
    Keepalive(pair[0], 20.0, 60.0)
    thin_linear_timeouts = 16  # of linux/tcp.h
    assert pair[0].getsockopt(socket.IPPROTO_TCP, thin_linear_timeouts) == 1


class Kernel:
    """A socket whose figures the test sets: the fields of struct tcp_info at their offsets."""

    def __init__(self):
        self.probes = self.unacknowledged = 0
        self.since_data = self.since_acknowledgement = 0.0

    def setsockopt(self, *_):
        pass

    def getsockopt(self, level, option, size):
        info = bytearray(size)
        info[3] = self.probes
        struct.pack_into("I", info, 24, self.unacknowledged)
        times = round(self.since_data * 1000), round(self.since_acknowledgement * 1000)
        struct.pack_into("II", info, 52, *times)
        return bytes(info)


class TestSilence:
    """The peer timeout is 20 s; times count from the first check."""

    @pytest.mark.parametrize(
        ("probes", "unacknowledged", "silent"),
        [(0, 0, False), (1, 0, False), (2, 0, True), (0, 1, True)],
    )
    def test_data_or_two_probes_must_be_acknowledged_in_time(self, probes, unacknowledged, silent):
        kernel = Kernel()
        keepalive = Keepalive(kernel, 20.0, 60.0)
        kernel.probes, kernel.unacknowledged = probes, unacknowledged
        kernel.since_acknowledgement = 100.0
        assert not keepalive.peer_is_silent(1000.0)
        assert not keepalive.peer_is_silent(1019.9)
        assert keepalive.peer_is_silent(1020.0) == silent

    def test_an_answer_to_everything_begins_the_time_again(self):
        kernel = Kernel()
        keepalive = Keepalive(kernel, 20.0, 60.0)
        kernel.since_acknowledgement = 100.0
        kernel.unacknowledged = 1
        assert not keepalive.peer_is_silent(1000.0)
        kernel.unacknowledged = 0
        assert not keepalive.peer_is_silent(1015.0)
        kernel.unacknowledged = 1
        assert not keepalive.peer_is_silent(1020.0)
        assert keepalive.peer_is_silent(1040.0)

    def test_an_acknowledgement_begins_the_time_again_and_data_do_not(self):
        kernel = Kernel()
        keepalive = Keepalive(kernel, 20.0, 60.0)
        kernel.unacknowledged = 1
        kernel.since_data, kernel.since_acknowledgement = 0.0, 100.0
        assert not keepalive.peer_is_silent(1000.0)
        kernel.since_acknowledgement = 5.0
        assert not keepalive.peer_is_silent(1020.0)
        kernel.since_acknowledgement = 24.9
        assert not keepalive.peer_is_silent(1034.9)
        assert keepalive.peer_is_silent(1035.0)


def test_the_figures_of_the_kernel(pair):
    ours, theirs = pair
    theirs.sendall(b"x")
    assert ours.recv(1) == b"x"
    assert not unanswered(ours)
    assert 0 <= since_data(ours) < 20
    assert 0 <= since_acknowledgement(ours) < 20
