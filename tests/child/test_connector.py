"""Real sockets on loopback addresses, and a fake clock."""

import contextlib
import os
import resource
import select
import socket
import time

import pytest
from support.clock import FakeClock

from lonc.child.connector import NEXT_AFTER, Connector, in_order
from lonc.runtime.event_loop import EventLoop

V4, V6 = socket.AF_INET, socket.AF_INET6
TIMEOUT = 5.0


class Network:
    """A Connector to some addresses, of which some answer, some refuse and some are silent."""

    def __init__(self):
        self.clock = FakeClock()
        self.loop = EventLoop(self.clock)
        self._stack = contextlib.ExitStack()
        self._stack.callback(self.loop.close)
        self.addresses = []
        self.why_none = ""
        self.connected = []  # (socket, address)
        self.failed = []
        self.connector = self.make()

    def make(self, bind_address=None):
        return Connector(
            self.loop,
            lambda on_found: on_found(self.addresses, self.why_none),
            bind_address,
            TIMEOUT,
        )

    def listening(self, host):
        """An address that answers."""
        listening = self._stack.enter_context(socket.create_server((host, 0)))
        self.addresses.append((V4, listening.getsockname()))
        return listening

    def refusing(self, host):
        bound = self._stack.enter_context(socket.socket())
        bound.bind((host, 0))
        self.addresses.append((V4, bound.getsockname()))

    def silent(self, host):
        """An address that drops our packets: its backlog is full."""
        full = self._stack.enter_context(socket.socket())
        full.bind((host, 0))
        full.listen(0)
        for _ in range(3):
            filler = self._stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        self.addresses.append((V4, full.getsockname()))
        return full

    def attempt(self):
        attempt = self.connector.attempt(self._connected, self.failed.append)
        attempt.start()
        return attempt

    def turn(self):
        """Turn until nothing is ready that was not before."""
        for _ in range(3):
            self.loop.turn(0.02)

    def advance(self, seconds):
        self.clock.advance(seconds)
        self.turn()

    def peers(self):
        return [address for _, address in self.connected]

    def _connected(self, connected, address):
        self._stack.enter_context(connected)
        self.connected.append((connected, address))

    def close(self):
        self._stack.close()


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def network():
    network = Network()
    yield network
    network.close()


def test_the_first_address_that_answers_is_connected(network):
    network.listening("127.0.0.2")
    network.listening("127.0.0.3")
    network.attempt()
    network.turn()
    assert network.peers() == ["127.0.0.2"]
    assert network.failed == []
    connected = network.connected[0][0]
    assert connected.getpeername() == network.addresses[0][1]
    assert connected.gettimeout() == 0
    assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_beside_a_silent_address_the_next_is_tried_after_a_quarter_of_a_second(network):
    network.silent("127.0.0.2")
    network.listening("127.0.0.3")
    network.attempt()
    network.advance(NEXT_AFTER - 0.01)
    assert network.peers() == []
    network.advance(0.02)
    assert network.peers() == ["127.0.0.3"]
    network.advance(2 * TIMEOUT)
    assert network.peers() == ["127.0.0.3"]
    assert network.failed == []  # the timeout of the other was cancelled with it


def test_the_sockets_that_have_not_connected_are_closed(network):
    network.silent("127.0.0.2")
    network.silent("127.0.0.3")
    network.listening("127.0.0.4")
    before = open_files()
    network.attempt()
    network.advance(NEXT_AFTER + 0.01)
    assert open_files() == before + 2
    network.advance(NEXT_AFTER + 0.01)
    assert network.peers() == ["127.0.0.4"]
    assert open_files() == before + 1


def test_an_address_that_answers_late_still_wins_if_the_others_are_silent(network):
    full = network.silent("127.0.0.2")
    network.silent("127.0.0.3")
    network.attempt()
    network.advance(NEXT_AFTER + 0.01)
    deadline = time.monotonic() + 20
    while not network.connected:  # the kernel repeats its SYN after 1, 3 and 7 seconds
        assert time.monotonic() < deadline
        if select.select([full], [], [], 0)[0]:  # make room in the backlog
            full.accept()[0].close()
        network.loop.turn(0.02)
    assert network.peers() == ["127.0.0.2"]


def test_after_a_refusal_the_next_is_tried_at_once(network):
    network.refusing("127.0.0.2")
    network.listening("127.0.0.3")
    network.attempt()
    network.turn()
    assert network.peers() == ["127.0.0.3"]


def test_the_address_that_worked_last_is_tried_first(network):
    network.refusing("127.0.0.2")
    network.listening("127.0.0.3")
    network.attempt()
    network.turn()
    network.addresses[0] = (V4, network.silent("127.0.0.4").getsockname())
    del network.addresses[2:]
    network.attempt()
    network.turn()  # no time has passed
    assert network.peers() == ["127.0.0.3", "127.0.0.3"]


def test_each_address_has_its_own_timeout_and_its_own_sentence(network):
    network.silent("127.0.0.2")
    network.refusing("127.0.0.3")
    network.silent("127.0.0.4")
    ports = [address[1] for _, address in network.addresses]
    network.attempt()
    network.advance(NEXT_AFTER + 0.01)  # the second is refused, the third is begun
    network.advance(TIMEOUT - NEXT_AFTER)
    assert network.failed == []
    network.advance(NEXT_AFTER + 0.01)
    assert network.failed == [
        f"cannot connect to 127.0.0.3 port {ports[1]}: Connection refused;"
        f" cannot connect to 127.0.0.2 port {ports[0]}: no answer within 5 s;"
        f" cannot connect to 127.0.0.4 port {ports[2]}: no answer within 5 s"
    ]
    assert network.connected == []


def test_without_an_address_it_fails_at_once(network):
    network.why_none = "cannot resolve lond.example: it is not known"
    network.attempt()
    assert network.failed == [network.why_none]


def test_a_cancelled_attempt_leaves_no_socket_and_calls_nothing_back(network):
    network.silent("127.0.0.2")
    network.silent("127.0.0.3")
    network.silent("127.0.0.4")
    before = open_files()
    attempt = network.attempt()
    network.advance(NEXT_AFTER + 0.01)
    attempt.cancel()
    attempt.cancel()
    assert open_files() == before
    network.advance(2 * TIMEOUT)
    assert open_files() == before
    assert (network.connected, network.failed) == ([], [])


def test_addresses_that_are_found_after_it_was_cancelled_are_not_tried(network):
    network.listening("127.0.0.2")
    asked = []
    network.connector.find = asked.append
    before = open_files()
    network.attempt().cancel()
    asked[0](network.addresses, "")
    network.turn()
    assert open_files() == before
    assert (network.connected, network.failed) == ([], [])


def test_a_second_socket_for_which_no_descriptor_is_free_costs_only_its_own_address(network):
    listening = network.listening("127.0.0.2")
    network.silent("127.0.0.3")
    network.addresses.reverse()
    network.attempt()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        network.advance(NEXT_AFTER + 0.01)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert network.failed == []
    network.advance(TIMEOUT)
    port = network.addresses[0][1][1]
    assert network.failed == [
        "cannot make a socket: Too many open files;"
        f" cannot connect to 127.0.0.3 port {port}: no answer within 5 s"
    ]
    assert select.select([listening], [], [], 0)[0] == []


def test_a_local_address_that_is_not_ours_is_a_sentence(network):
    network.listening("127.0.0.2")
    network.connector = network.make(bind_address="192.0.2.1")
    network.attempt()
    assert network.failed == ["cannot connect from 192.0.2.1: Cannot assign requested address"]


def test_it_connects_from_the_local_address(network):
    listening = network.listening("127.0.0.2")
    network.connector = network.make(bind_address="127.0.0.77")
    network.attempt()
    network.turn()
    accepted, peer = listening.accept()
    accepted.close()
    assert peer[0] == "127.0.0.77"


def test_an_error_of_the_kernel_when_connecting_starts_is_a_sentence(network):
    network.addresses = [(V4, ("255.255.255.255", 1))]
    network.attempt()
    why = "cannot connect to 255.255.255.255 port 1: "
    assert network.failed == [why + "Network is unreachable"]


def test_after_an_address_that_fails_at_once_the_next_is_tried_at_once(network):
    network.addresses = [(V4, ("255.255.255.255", 1))]
    network.listening("127.0.0.2")
    network.silent("127.0.0.3")
    network.attempt()
    network.turn()
    assert network.peers() == ["127.0.0.2"]


A1, A2, A3 = ((V4, (f"192.0.2.{number}", 5663)) for number in (1, 2, 3))
B1, B2, B3 = ((V6, (f"2001:db8::{number}", 5663, 0, 0)) for number in (1, 2, 3))


@pytest.mark.parametrize(
    ("addresses", "worked_last", "ordered"),
    [
        ([], None, []),
        ([], A1, []),
        ([A1, A2, A3], None, [A1, A2, A3]),
        ([A1, A2, A3], A3, [A3, A1, A2]),
        ([A1, A2], A3, [A1, A2]),
        ([B1, A1], None, [B1, A1]),
        ([B1, A1], A1, [A1, B1]),
        ([B1, B2, B3, A1, A2], None, [B1, A1, B2, A2, B3]),
        ([B1, B2, B3, A1], A1, [A1, B1, B2, B3]),
        ([A1, B1, B2], B2, [B2, A1, B1]),
        ([A1, A1, A2], None, [A1, A2]),
    ],
)
def test_the_one_that_worked_last_is_first_and_the_families_alternate(addresses, worked_last, ordered):
    assert in_order(addresses, worked_last) == ordered
