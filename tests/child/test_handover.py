"""Both sides of a hand-over, over a real socketpair."""

import contextlib
import os
import resource
import socket
import time

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.machine import as_nobody

from lonc.child.client import Passing
from lonc.child.handover import Handover, Succession
from lonc.runtime.event_loop import READ, EventLoop

MAX_BYTES = 20_000_000


class Change:
    """Both sides, and what they call back.

    `events`: the counts that the successor expects, and "broken" from the predecessor; `adopted`: the
    clients passed on; `ours`: the other ends of their sockets.
    """

    def __init__(self):
        self.deadline = time.monotonic() + 15  # no result depends on it
        self.loop = EventLoop()
        self.events = []
        self.adopted = []
        self.ours = []
        ours, theirs = socket.socketpair()
        self.handover = Handover(
            self.loop, ours, self.count_passed, on_broken=lambda: self.events.append("broken")
        )
        self.succession = Succession(
            self.loop, theirs, self.events.append, self.adopted.append, MAX_BYTES
        )

    passed = 0

    def count_passed(self):
        self.passed += 1

    def pass_on(self, owed=b"", held=b"", ended=False):
        ours, theirs = socket.socketpair()
        self.ours.append(ours)
        self.handover.pass_on(Passing(theirs, owed, held, ended))
        return ours

    def turn_until(self, done):
        while not done():
            assert time.monotonic() < self.deadline
            self.loop.turn(0.1)

    def end(self):
        self.handover.finish(lambda: None)
        self.turn_until(lambda: 0 in self.events or "broken" in self.events)
        self.succession._channel.close()
        for each in self.adopted:
            each.connection.close()
        for each in self.ours:
            each.close()
        self.loop.close()


@contextlib.contextmanager
def changing():
    change = Change()
    try:
        yield change
    finally:
        change.end()


@pytest.fixture
def change():
    with changing() as change:
        yield change


passings = st.tuples(
    st.binary(max_size=50).map(lambda text: text.replace(b"\n", b"")).map(lambda text: text + b"\n")
    | st.just(b""),
    st.binary(max_size=100),
    st.booleans(),
)


@settings(phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking would wait again and again
@given(st.lists(passings, max_size=20))
def test_each_client_arrives_with_its_own_data_and_in_order(sent):
    """The n-th client adopted equals the n-th passed on, in all four parts."""
    with changing() as change:
        change.handover.announce(len(sent))
        for owed, held, ended in sent:
            change.pass_on(owed, held, ended)
        change.turn_until(lambda: len(change.adopted) == len(sent))
        for number, (arrived, ours) in enumerate(zip(change.adopted, change.ours, strict=True)):
            assert (arrived.owed, arrived.held, arrived.ended) == sent[number]
            ours.sendall(b"%d" % number)
            assert arrived.connection.recv(100) == b"%d" % number
        change.turn_until(lambda: change.events)
        assert change.events == [len(sent)]


def test_a_thousand_clients_and_one_with_a_long_line(change):
    change.pass_on(held=b"x" * 10_000_000)
    for number in range(1000):
        change.pass_on(held=b"%d" % number)
    assert change.passed == 1001
    change.turn_until(lambda: len(change.adopted) == 1001)
    assert len(change.adopted[0].held) == 10_000_000
    assert [each.held for each in change.adopted[1:]] == [b"%d" % number for number in range(1000)]


def test_the_end_is_reported_after_the_last_client(change):
    finished = []
    for _ in range(500):
        change.pass_on(held=b"y" * 1000)
    change.handover.finish(lambda: finished.append(len(change.adopted)))
    change.turn_until(lambda: change.events)
    assert change.events == [0]
    assert len(change.adopted) == 500
    assert len(finished) == 1


def test_a_successor_that_ends_before_all_is_sent_ends_the_handover(change):
    finished = []
    for _ in range(500):
        change.pass_on(held=b"y" * 1000)
    change.handover.finish(lambda: finished.append(True))
    assert not finished
    change.succession._channel.close()
    change.turn_until(lambda: finished)
    assert change.events == ["broken"]
    for client in change.ours:
        assert client.recv(1) == b""


def test_a_successor_that_has_ended_is_reported_as_broken(change):
    change.succession._channel.close()
    client = change.pass_on()
    assert change.events == ["broken"]
    assert client.recv(1) == b""
    change.pass_on()  # no successor is left, and no descriptor stays open
    assert change.ours[-1].recv(1) == b""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_more_sockets_in_flight_than_the_kernel_allows_one_user_only_take_longer():
    """Root has no such limit; others may have as many sockets under way as files open."""

    def pass_many():
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        loop = EventLoop()
        adopted = []
        ours, theirs = socket.socketpair()
        handover = Handover(loop, ours, lambda: None, on_broken=lambda: adopted.append("broken"))
        clients = []
        for number in range(150):  # only the message keeps one end of each pair open
            client, passed = socket.socketpair()
            handover.pass_on(Passing(passed, b"", b"%d" % number, False))
            clients.append(client) if number < 5 else client.close()
        waited = not handover._channel.all_sent and handover._channel._watch.events == READ
        Succession(
            loop,
            theirs,
            lambda _: None,
            lambda each: (each.connection.close(), adopted.append(each.held)),
            MAX_BYTES,
        )
        deadline = time.monotonic() + 20
        while len(adopted) < 150 and time.monotonic() < deadline:
            loop.turn(0.1)
        in_order = adopted == [b"%d" % number for number in range(150)]
        return f"{waited=} {in_order=}"

    assert as_nobody(pass_many) == "waited=True in_order=True"


def test_without_a_free_descriptor_a_client_is_closed_and_never_mistaken_for_another(change):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first = change.pass_on(held=b"first")
    change.turn_until(lambda: change.adopted)
    second = change.pass_on(held=b"second")
    lowest = socket.socket()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno(), hard))
    lowest.close()
    spare = []
    try:
        with contextlib.suppress(OSError):
            while True:
                spare.append(socket.socket())
        change.turn_until(lambda: change.events)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in spare:
            each.close()
    assert change.events[0] == 0
    assert len(change.adopted) == 1
    assert second.recv(1) == b""
    first.sendall(b"still there")
    assert change.adopted[0].connection.recv(100) == b"still there"


class TestAnotherThatBreaksTheRules:
    """Its channel is closed, as if it had ended; this side goes on."""

    @pytest.mark.parametrize(
        "words",
        [
            b"nonsense\n",
            b"clients\n",
            b"clients -1\n",
            b"clients 1e3\n",
            b"clients \xd9\xa1\n",
            b"client 0 0 0\n",
            b"client 2 0 1\n",
            b"client 0 0 1 1\n",
            b"client 0 0 99999999999999999999\n",
            b"client 0 0 1\nheld but no socket\n",
            b"x" * (MAX_BYTES + 1),
            b"client 0 0 3\n" + b"x" * 11_000_000 + b"\n" + b"x" * 11_000_000 + b"\n",
        ],
    )
    def test_the_previous_child_passes_no_more_clients(self, change, caplog, words):
        change.handover._channel.send(words)
        change.turn_until(lambda: change.events)
        assert change.events == [0]
        assert change.adopted == []
        (message,) = caplog.messages
        assert message.startswith("no more clients of the previous child: it ")

    def test_a_client_that_is_no_socket_is_not_adopted(self, change, caplog):
        with open(os.devnull) as file:
            socket.send_fds(change.handover._channel._socket, [b"client 0 0 1\n\n"], [file.fileno()])
        change.turn_until(lambda: change.events)
        assert change.events == [0]
        assert change.adopted == []
        assert len(caplog.messages) == 1

    def test_the_next_child_gets_no_more_clients(self, change, caplog):
        change.succession._channel.send(b"clients 1\n")
        change.turn_until(lambda: change.events)
        assert change.events == ["broken"]
        client = change.pass_on()
        assert client.recv(1) == b""
        assert caplog.messages == [
            "clients cannot be passed to the next child: it sent a line, and none was expected"
        ]
