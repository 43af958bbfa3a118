import contextlib
import errno
import os
import resource
import socket

import pytest
from support.clock import FakeClock

from lonc.runtime.channel import PASS_AGAIN, Channel
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.line_buffer import LineBuffer

MAX_SOCKETS = 3


class Line:
    def __init__(self):
        self.clock = FakeClock()
        self.loop = EventLoop(self.clock)
        ours, self.there = socket.socketpair()
        self.there.settimeout(20)
        self.heard = []
        self.channel = Channel(
            self.loop,
            ours,
            self.heard.append,
            lambda: self.heard.append("closed"),
            lines=LineBuffer(100),
            max_sockets=MAX_SOCKETS,
        )


@pytest.fixture
def line():
    line = Line()
    yield line
    line.channel.close()
    line.there.close()
    line.loop.close()


def test_lines_both_ways(line):
    line.there.sendall(b"one\ntwo\nthr")
    line.loop.turn(5)
    assert line.heard == [b"one\n", b"two\n"]
    line.channel.send(b"answer\n")
    assert line.there.recv(100) == b"answer\n"


def test_lines_that_the_socket_does_not_take_are_sent_later_in_order(line):
    big = b"x" * 10**6 + b"\n"
    line.channel.send(big)
    line.channel.send(b"last\n")
    received = bytearray()
    while not received.endswith(b"last\n"):
        line.loop.turn(0)
        received += line.there.recv(1 << 16)
    assert received == big + b"last\n"


@pytest.mark.parametrize("last", [b"", b"x" * 101])
def test_the_end_of_the_other_side_is_reported_once(line, last):
    line.there.sendall(last)
    line.there.close()
    line.loop.turn(5)
    line.loop.turn(0)
    assert line.heard == ["closed"]
    line.channel.send(b"to nobody\n")


def test_a_line_over_the_limit_is_the_end(line):
    line.there.sendall(b"x" * 101)
    line.loop.turn(5)
    assert line.heard == ["closed"]
    assert line.channel.fault == "it sent a line that is too long"


def pass_descriptors(line, *files):
    """Send a line with these open files; what is received is ours or closed."""
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(line.there, [b"one\n"], [each.fileno() for each in files])
    line.loop.turn(5)
    assert len(os.listdir("/proc/self/fd")) == before - 1  # the channel's own is closed too


def test_a_descriptor_that_is_no_unix_stream_socket_is_a_fault_and_is_closed(line):
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull) as file:
        pass_descriptors(line, theirs, file, ours)
    assert line.heard == ["closed"]
    assert line.channel.fault == "it passed a descriptor that is no UNIX stream socket"


@pytest.mark.parametrize(
    "family_and_type", [(socket.AF_UNIX, socket.SOCK_DGRAM), (socket.AF_INET, socket.SOCK_STREAM)]
)
def test_a_socket_of_another_kind_is_a_fault(line, family_and_type):
    with socket.socket(*family_and_type) as other:
        pass_descriptors(line, other)
    assert line.heard == ["closed"]


def test_more_sockets_than_are_expected_are_a_fault(line):
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(end) for _ in range(2) for end in socket.socketpair()]
        pass_descriptors(line, *ends)
    assert line.heard == [b"one\n", "closed"]
    assert line.channel.fault == "it passed more sockets than were expected"


def test_a_channel_that_expects_no_socket_takes_none(line):
    other = Channel(line.loop, line.there, line.heard.append, lambda: line.heard.append("ended"))
    line.channel.send(b"one\n", [socket.socket(socket.AF_UNIX)])
    line.loop.turn(5)
    assert line.heard == ["ended"]
    assert other.fault == "it passed a descriptor, and none was expected"


def test_the_rest_ends_though_the_other_side_never_stops_to_write(line, restore_afterwards):
    class Endless:
        def feed(self, data):
            line.there.sendall(b"x")

        def next_line(self):
            return None

    line.channel._lines = Endless()
    line.there.sendall(b"x")
    line.channel.receive_rest()
    assert line.heard == []


def test_a_reset_is_the_end(line):
    line.channel.send(b"never read\n")
    line.there.close()
    line.channel.receive_rest()
    assert line.heard == ["closed"]


def test_sending_to_a_process_that_has_ended_reports_its_end(line):
    line.there.close()
    line.channel.send(b"x\n")
    assert line.heard == ["closed"]


def test_after_close_no_callback_is_called_not_even_for_lines_that_have_arrived(line):
    line.channel._on_line = lambda got: (line.heard.append(got), line.channel.close())
    line.there.sendall(b"one\ntwo\n")
    line.loop.turn(5)
    line.loop.turn(0)
    assert line.heard == [b"one\n"]


def test_sockets_arrive_beside_the_line_that_they_were_sent_with(line):
    other = Channel(
        line.loop,
        line.there,
        lambda got: line.heard.append((got, len(other.received))),
        None,
        max_sockets=3,
    )
    pairs = [socket.socketpair() for _ in range(3)]
    line.channel.send(b"none\n")
    line.channel.send(b"two\n", [pairs[0][1], pairs[1][1]])
    line.channel.send(b"one\n", [pairs[2][1]])
    assert [theirs.fileno() for _, theirs in pairs] == [-1] * 3  # they are ours no more
    for _ in range(3):
        line.loop.turn(1)
    assert [got for got, _ in line.heard] == [b"none\n", b"two\n", b"one\n"]
    assert [count for _, count in line.heard[1:]] == [2, 3]
    for (ours, _), theirs in zip(pairs, other.received, strict=True):
        ours.sendall(b"hello")
        assert theirs.recv(10) == b"hello"
        ours.close()
    received = list(other.received)
    other.close()
    assert [each.fileno() for each in received] == [-1] * 3  # whoever did not take them


def test_sockets_that_can_never_be_sent_are_closed(line):
    ours, theirs = socket.socketpair()
    line.channel.send(b"x" * 10**7 + b"\n")
    line.channel.send(b"y\n", [theirs])
    assert theirs.fileno() != -1
    line.channel.close()
    assert theirs.fileno() == -1
    assert ours.recv(1) == b""
    ours.close()


def test_when_all_lines_are_sent_it_is_reported(line):
    sent = []
    line.channel._on_sent = lambda: sent.append(line.channel.all_sent)
    line.channel.send(b"x" * 10**6 + b"\n")
    assert sent == []
    received = 0
    while received < 10**6 + 1:
        received += len(line.there.recv(1 << 16))
        line.loop.turn(0)
    assert sent == [True]


def test_lines_that_have_arrived_can_be_read_after_the_end_of_the_other_side(line):
    line.there.sendall(b"one\ntwo\n")
    line.channel.receive_rest()
    assert line.heard == [b"one\n", b"two\n"]
    line.there.sendall(b"last\n")
    line.there.close()
    line.channel.receive_rest()
    assert line.heard == [b"one\n", b"two\n", b"last\n", "closed"]
    line.channel.receive_rest()


def test_sockets_are_sent_once_though_their_line_goes_in_parts(line):
    received = []
    other = Channel(
        line.loop, line.there, received.append, lambda: received.append("closed"), max_sockets=1
    )
    ours, theirs = socket.socketpair()
    long = b"x" * 1_000_000 + b"\n"
    line.channel.send(long, [theirs])
    for _ in range(1000):
        if received:
            break
        line.loop.turn(0)
    assert received == [long]
    assert len(other.received) == 1
    other.close()
    ours.close()


class TestTooManySocketsInFlight:
    @pytest.fixture
    def refused(self, line, monkeypatch):
        """A line with a socket that the kernel does not take until the test allows it."""
        send_fds, refuse = socket.send_fds, [True]

        def send(*arguments):
            if refuse:
                raise OSError(errno.ETOOMANYREFS, "too many references")
            return send_fds(*arguments)

        monkeypatch.setattr(socket, "send_fds", send)
        ours, theirs = socket.socketpair()
        line.channel.send(b"one\n", [theirs])
        assert theirs.fileno() != -1
        assert not line.channel.all_sent
        yield refuse
        ours.close()

    def test_the_line_is_sent_later_and_before_all_others(self, line, refused):
        line.channel.send(b"two\n")
        line.loop.turn(0)
        line.there.setblocking(False)
        with pytest.raises(BlockingIOError):
            line.there.recv(100)
        refused.clear()
        line.loop.turn(0)
        line.channel.send(b"three\n")
        with pytest.raises(BlockingIOError):
            line.there.recv(100)
        line.clock.advance(PASS_AGAIN)
        line.loop.turn(0)
        data, descriptors, _, _ = socket.recv_fds(line.there, 100, 10)
        data += line.there.recv(100)
        assert data == b"one\ntwo\nthree\n"
        assert len(descriptors) == 1
        socket.socket(fileno=descriptors[0]).close()

    def test_after_close_it_is_not_tried_again(self, line, refused):
        line.channel.close()
        refused.clear()
        line.clock.advance(PASS_AGAIN)
        line.loop.turn(0)
        assert line.there.recv(100) == b""
        assert line.heard == []


def test_sockets_passed_after_the_end_are_closed(line):
    ours, theirs = socket.socketpair()
    line.channel.close()
    line.channel.send(b"x\n", [theirs])
    assert theirs.fileno() == -1
    ours.close()


def test_passed_sockets_without_a_free_descriptor_end_the_channel(line):
    pairs = [socket.socketpair() for _ in range(3)]
    socket.send_fds(line.there, [b"one\n"], [theirs.fileno() for _, theirs in pairs])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        line.channel.receive_rest()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert line.heard == ["closed"]
    for pair in pairs:
        for end in pair:
            end.close()
