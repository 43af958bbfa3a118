import contextlib
import os
import socket

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.fake_child import MAX_REQUEST, FakeChild

from lonc.child.client import READ_AHEAD, Client, Passing
from lonc.runtime.event_loop import FORGOTTEN, READ, WRITE, EventLoop


@pytest.fixture
def fake(tmp_path):
    fake = FakeChild(tmp_path / "l1")
    yield fake
    fake.end()


def test_a_line_in_and_a_line_out(fake):
    client = fake.connect()
    client.sendall(b"ping\n")
    fake.turn()
    assert [each.request for each in fake.waiting] == [b"ping\n"]
    fake.waiting.pop().complete(b"l1\n")
    assert client.recv(100) == b"l1\n"


def test_a_line_in_parts_is_one_request(fake):
    client = fake.connect()
    for part in (b"pi", b"n", b"g", b"\n"):
        client.sendall(part)
        assert fake.waiting == []
        fake.turn()
    assert fake.waiting[0].request == b"ping\n"


@pytest.mark.parametrize("line", [b"\n", b"\0\xff\r\t:\n", b"x" * MAX_REQUEST + b"\n"])
def test_bytes_are_opaque(fake, line):
    fake.connect().sendall(line)
    fake.turn()
    assert fake.waiting[0].request == line


def test_several_lines_at_once_are_served_one_at_a_time_and_in_order(fake):
    client = fake.connect()
    client.sendall(b"1\n2\n3\n")
    fake.turn()
    for number in (b"1\n", b"2\n", b"3\n"):
        (transaction,) = fake.waiting
        assert transaction.request == number
        fake.waiting.clear()
        transaction.complete(b"reply " + number)
    assert client.recv(100) == b"reply 1\nreply 2\nreply 3\n"


def test_lines_answered_while_they_are_queued_do_not_deepen_the_stack(fake):
    fake.at_once = b"ok\n"
    client = fake.connect()
    ours = only(fake)
    ours._socket = Endless(ours._socket)
    client.sendall(b"x\n" * 10_000)
    fake.turn()
    assert ours._socket.sent == [b"ok\n"] * 10_000


def test_a_failure_is_replied_as_con_lost(fake):
    client = fake.connect()
    client.sendall(b"ping\n")
    fake.turn()
    fake.waiting.pop().fail("broken")
    assert client.recv(100) == b"con_lost\n"


def test_lines_for_lonc_itself_are_answered_at_once_in_their_order(fake):
    client = fake.connect()
    client.sendall(b"lonc:status\nlonc:other\nlonc:status\n")
    fake.turn()
    assert client.recv(100) == b"own\n"
    assert fake.waiting[0].request == b"lonc:other\n"
    fake.waiting.pop().complete(b"lond's\n")
    assert client.recv(100) == b"lond's\nown\n"


def test_a_request_over_the_limit_is_replied_to_and_its_client_disconnected(fake):
    client = fake.connect()
    client.sendall(b"ping\n" + b"x" * (MAX_REQUEST + 1))
    fake.turn()
    fake.waiting.pop().complete(b"l1\n")
    fake.turn()
    assert client.recv(100) == b"l1\nerror: request too long\n"
    assert client.recv(100) == b""
    assert fake.waiting == []


def test_a_client_that_closed_its_sending_side_gets_its_replies(fake):
    client = fake.connect()
    client.sendall(b"1\n2\nhalf a line")
    client.shutdown(socket.SHUT_WR)
    fake.turn()
    fake.waiting.pop().complete(b"one\n")
    fake.turn()
    fake.waiting.pop().complete(b"two\n")
    assert client.recv(100) == b"one\ntwo\n"
    assert client.recv(100) == b""
    assert fake.waiting == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("number", [0, 65534, 3_000_000_000])
def test_the_owner_is_the_user_and_group_at_the_connect(fake, number):
    mine = os.geteuid(), os.getegid()
    os.setegid(number)
    os.seteuid(number)
    try:
        ours, theirs = socket.socketpair()
    finally:
        os.seteuid(mine[0])
        os.setegid(mine[1])
    client = Client(fake.loop, ours, fake, MAX_REQUEST, lambda _: None)
    assert client.owner == (number, number)
    client.close()
    theirs.close()


def test_a_request_ends_once(fake):
    client = fake.connect()
    client.sendall(b"1\n")
    fake.turn()
    transaction = fake.waiting.pop()
    transaction.complete(b"one\n")
    for again in (lambda: transaction.complete(b"1\n"), lambda: transaction.fail("late")):
        with pytest.raises(AssertionError, match="ends once"):
            again()
    assert client.recv(100) == b"one\n"


def test_nothing_of_a_request_is_held_once_it_has_ended(fake):
    client = fake.connect()
    client.sendall(b"x" * 100 + b"\n")
    fake.turn()
    (ours,) = fake.listener.clients
    assert ours.held == 101
    fake.waiting.pop().complete(b"one\n")
    assert ours.held == 0
    assert client.recv(100) == b"one\n"


def test_a_client_that_leaves_has_its_transaction_dropped_and_its_lines_forgotten(fake):
    client = fake.connect()
    client.sendall(b"1\n2\n")
    client.close()
    fake.turn()
    assert fake.dropped == fake.waiting
    assert fake.listener.clients == {}
    fake.waiting.pop().complete(b"too late\n")  # it had been in flight
    fake.turn()
    assert fake.waiting == []


def test_a_reply_to_a_client_that_has_just_left_goes_nowhere(fake):
    client = fake.connect()
    client.sendall(b"1\n2\n")
    fake.turn()
    client.close()
    fake.waiting.pop().complete(b"one\n")  # before the loop has seen that it left
    assert fake.listener.clients == {}
    fake.turn()
    assert fake.waiting == []


def test_a_client_that_first_closes_one_side_and_then_leaves_is_noticed(fake):
    client = fake.connect()
    client.sendall(b"1\n")
    client.shutdown(socket.SHUT_WR)
    fake.turn()
    assert fake.dropped == []
    client.close()
    fake.turn()
    assert fake.dropped == fake.waiting


def test_a_client_that_leaves_while_it_is_read_ahead_is_noticed(fake):
    client = fake.connect()
    client.setblocking(False)
    client.sendall(b"1\n")
    fake.turn()
    with pytest.raises(BlockingIOError):
        client.sendall(b"x\n" * 10**7)
    fake.turn()
    client.close()
    fake.turn()
    assert fake.listener.clients == {}


def test_no_more_than_64_kib_are_read_ahead_and_reading_goes_on(fake):
    client = fake.connect()
    client.setblocking(False)
    client.sendall(b"1\n")
    fake.turn()
    total = 0
    try:
        while True:
            total += client.send(b"y" * 999 + b"\n")
            fake.turn()
    except BlockingIOError:
        pass
    (held,) = fake.listener.clients
    assert len(held._lines) == READ_AHEAD
    client.setblocking(True)
    client.shutdown(socket.SHUT_WR)
    answered = 0
    while fake.waiting:
        fake.waiting.pop().complete(b"z\n")
        fake.turn()
        answered += 1
    assert answered == 1 + total // 1000
    assert client.recv(1 << 20) == b"z\n" * answered


def test_a_single_line_that_fills_the_read_ahead_does_not_stop_reading(fake):
    fake.listener._max_request = 10**6
    client = fake.connect()
    client.sendall(b"1\n" + b"x" * (READ_AHEAD - 1) + b"\n")
    fake.turn()
    fake.waiting.pop().complete(b"one\n")
    fake.turn()
    fake.waiting.pop().complete(b"two\n")
    fake.turn()
    client.sendall(b"3\n")
    fake.turn()
    assert fake.waiting[0].request == b"3\n"


def test_a_client_that_does_not_read_its_reply_delays_no_other(fake):
    slow, quick = fake.connect(), fake.connect()
    slow.sendall(b"big\nnext\n")
    fake.turn()
    reply = b"x" * 10**7 + b"\n"
    fake.waiting.pop().complete(reply)
    fake.turn()
    assert fake.waiting == []  # the next line waits until the reply has left
    quick.sendall(b"ping\n")
    fake.turn()
    fake.waiting.pop().complete(b"l1\n")
    assert quick.recv(100) == b"l1\n"
    received = 0
    while received < len(reply):
        piece = slow.recv(1 << 20)
        assert piece
        received += len(piece)
        fake.turn()
    assert fake.waiting[0].request == b"next\n"


def only(fake):
    """The only client of the child."""
    (client,) = fake.listener.clients
    return client


def test_after_the_whole_reply_the_socket_is_not_watched_for_writing(fake):
    """Otherwise the child would spin."""
    client = fake.connect()
    client.sendall(b"big\n")
    fake.turn()
    ours = only(fake)
    fake.waiting.pop().complete(b"x" * 10**6 + b"\n")
    assert ours._watch.events == READ | WRITE
    received = 0
    while received <= 10**6:
        piece = client.recv(1 << 20)
        assert piece
        received += len(piece)
        fake.turn()
    assert ours._watch.events == READ
    assert ours.held == 0


class Wrapped:
    """A socket whose `send` is replaced."""

    def __init__(self, real):
        self.real = real

    def fileno(self):
        return self.real.fileno()

    def recv(self, size):
        return self.real.recv(size)

    def shutdown(self, how):
        self.real.shutdown(how)

    def close(self):
        self.real.close()


class Endless(Wrapped):
    """A socket whose send buffer never is full, as that of a real one is after some 300 sends."""

    def __init__(self, real):
        super().__init__(real)
        self.sent = []

    def send(self, data):
        self.sent.append(bytes(data))
        return len(data)


class Full(Wrapped):
    """A socket whose send buffer is full."""

    def send(self, _):
        raise BlockingIOError


def test_nothing_behind_a_request_that_is_too_long_is_held(fake):
    client = fake.connect()
    ours = only(fake)
    ours._socket = Full(ours._socket)
    client.sendall(b"x" * (MAX_REQUEST + 1) + b"\nnext\n")
    fake.turn()
    assert ours.held == len(b"error: request too long\n")
    ours._socket = ours._socket.real
    fake.turn()
    assert client.recv(100) == b"error: request too long\n"
    assert client.recv(100) == b""
    assert fake.waiting == []


@pytest.mark.parametrize("seen", [True, False])
def test_a_client_that_has_left_is_not_passed_on(fake, seen):
    passed = []
    client = fake.connect()
    client.sendall(b"1\n")
    fake.turn()
    ours = only(fake)
    ours.leave(passed.append)
    client.close()
    if seen:
        fake.turn()
    fake.waiting.pop().complete(b"one\n")
    ours.leave(passed.append)
    assert passed == []
    assert fake.listener.clients == {}


@pytest.mark.parametrize("ended", [True, False])
def test_a_client_is_passed_on_with_its_unsent_reply_and_its_read_lines(fake, ended):
    passed = []
    client = fake.connect()
    client.sendall(b"1\n2\n")
    if ended:
        client.shutdown(socket.SHUT_WR)
    fake.turn()
    ours = only(fake)
    ours.leave(passed.append)
    ours._socket = Full(ours._socket)
    fake.waiting.pop().complete(b"one\n")
    (passing,) = passed
    passing.connection.close()
    assert (passing.owed, passing.held, passing.ended) == (b"one\n", b"2\n", ended)


@pytest.mark.parametrize("ended", [True, False])
def test_a_client_passed_on_to_us_gets_the_rest_of_its_reply_and_is_served(fake, ended):
    left = []
    ours, theirs = socket.socketpair()
    client = Client(fake.loop, ours, fake, MAX_REQUEST, left.append)
    client.resume(Passing(ours, b"one\n", b"2\n", ended))
    assert theirs.recv(100) == b"one\n"
    assert client.request == b"2\n"
    fake.waiting.pop().complete(b"two\n")
    assert theirs.recv(100) == b"two\n"
    assert left == ([client] if ended else [])
    client.close()
    theirs.close()


def test_draining_a_client_that_has_left_does_nothing(fake):
    fake.connect().close()
    ours = only(fake)
    fake.turn()
    ours.drain()
    assert fake.listener.clients == {}


def test_bytes_read_ahead_are_reported_as_growth_and_whole_lines_are_not(fake):
    client = fake.connect()
    client.sendall(b"1\n")
    fake.turn()
    assert fake.reported_growth == 0
    client.sendall(b"2\nhalf")
    fake.turn()
    assert fake.reported_growth == 6
    fake.waiting.pop().complete(b"one\n")


@pytest.mark.parametrize(
    ("owner", "may"), [((0, 1), True), ((-1, 1), False), ("user", True), ("group", True)]
)
def test_root_and_our_own_user_and_group_may_administer(
    fake, monkeypatch, restore_afterwards, owner, may
):
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(os, "getegid", lambda: 4712)
    owner = {"user": (4711, 1), "group": (1, 4712)}.get(owner, owner)
    restore_afterwards(Client)
    Client.owner = owner
    fake.connect()
    assert only(fake).may_administer is may


def test_a_client_that_closed_its_sending_side_is_disconnected_after_its_last_reply(fake):
    client = fake.connect()
    client.sendall(b"1\n")
    client.shutdown(socket.SHUT_WR)
    fake.turn()
    fake.waiting.pop().complete(b"one\n")
    assert client.recv(100) == b"one\n"
    assert client.recv(100) == b""


def test_a_client_that_waits_to_be_passed_on_is_not_read(fake):
    client = fake.connect()
    client.sendall(b"1\n")
    fake.turn()
    ours = only(fake)
    ours.leave(lambda passing: passing.connection.close())
    assert not ours._watch.events & READ
    fake.waiting.pop().complete(b"one\n")


def test_a_client_that_waits_to_be_passed_on_is_served_here_if_the_child_drains(fake):
    passed = []
    client = fake.connect()
    client.sendall(b"1\n2\n")
    fake.turn()
    ours = only(fake)
    ours.leave(passed.append)
    ours.drain()
    for number in (b"1\n", b"2\n"):
        fake.waiting.pop().complete(number)
        fake.turn()
    assert client.recv(100) == b"1\n2\n"
    assert passed == []


class Walk(RuleBasedStateMachine):
    """Whatever a client does and lond answers: between two callbacks its five fields are in a row of the
    table of `Client`, and its socket is watched as that row says."""

    BIG = b"x" * 300_000 + b"\n"

    @initialize()
    def begin(self):
        self.loop = EventLoop()
        self.own_prefixes = (b"lonc:",)
        self.program, self.passed = None, []
        self.connect(None)

    @precondition(lambda self: not self.open and not self.waiting)
    @rule(at_once=st.sampled_from([None, None, b"ok\n", BIG]))
    def connect(self, at_once):
        self.end()
        self.at_once = at_once
        self.program, ours = socket.socketpair()
        self.program.setblocking(False)
        self.waiting, self.passed, self.left = [], [], 0
        self.client = Client(self.loop, ours, self, MAX_REQUEST, self.has_left)

    @property
    def open(self):
        return self.client._watch.events != FORGOTTEN

    def end(self):
        if self.program is not None:
            self.client.close()
            self.program.close()
        for passing in self.passed:
            passing.connection.close()

    def answer(self, request, client):
        return b"own\n"

    def queue_transaction(self, transaction):
        if self.at_once is None:
            self.waiting.append(transaction)
        else:
            transaction.complete(self.at_once)

    def drop_transaction(self, transaction):
        assert self.waiting == [transaction]

    def report_growth(self, count):
        assert count >= 0

    def has_left(self, client):
        self.left += 1

    @precondition(lambda self: self.open)
    @rule(data=st.sampled_from([b"1\n", b"half", b"\n", b"1\n2\n3\n", b"lonc:\n", b"y\n" * 40_000]))
    def it_sends(self, data):
        with contextlib.suppress(OSError):
            self.program.send(data)
        self.loop.turn(0)

    @precondition(lambda self: self.open)
    @rule()
    def it_sends_a_line_that_is_too_long(self):
        self.it_sends(b"z" * 2000 + b"\n")

    @precondition(lambda self: self.open)
    @rule()
    def it_reads(self):
        with contextlib.suppress(OSError):
            for _ in range(3):
                self.program.recv(1 << 20)
                self.loop.turn(0)
        self.loop.turn(0)

    @precondition(lambda self: self.open)
    @rule()
    def it_closes_its_sending_side(self):
        with contextlib.suppress(OSError):
            self.program.shutdown(socket.SHUT_WR)
        self.loop.turn(0)

    @precondition(lambda self: self.open and not self.client.is_idle)
    @rule()
    def it_leaves(self):
        self.program.close()
        self.loop.turn(0)

    @precondition(lambda self: self.waiting)
    @rule(reply=st.sampled_from([b"one\n", BIG, None]))
    def its_request_ends(self, reply):
        transaction = self.waiting.pop()
        transaction.fail("lost") if reply is None else transaction.complete(reply)

    @precondition(lambda self: self.open and not self.client.is_idle)
    @rule()
    def the_child_leaves(self):
        self.client.leave(self.passed.append)

    @precondition(lambda self: self.open and not self.client.is_idle)
    @rule()
    def the_child_drains(self):
        self.client.drain()

    @invariant()
    def its_fields_are_in_a_row_of_the_table(self):
        client = self.client
        events = client._watch.events
        assert not client._serving
        assert bool(client.request) == client._in_flight == bool(self.waiting)
        assert self.left == (events == FORGOTTEN)
        assert len(self.passed) <= self.left
        if events == FORGOTTEN:
            assert client._ended or self.passed
            return
        assert not (client._in_flight and client._unsent)
        busy = client._in_flight or bool(client._unsent)
        assert busy or not client._ended, "it should have been closed"
        assert client._in_flight or client._pass_on is None, "it should have been passed on"
        assert bool(events & WRITE) == bool(client._unsent)
        room = not busy or len(client._lines) < READ_AHEAD
        assert bool(events & READ) == (not client._ended and client._pass_on is None and room)
        assert len(client._lines) <= READ_AHEAD
        assert busy or not client._lines.rest or b"\n" not in client._lines.held()
        assert client.is_idle == (not busy)

    def teardown(self):
        self.end()
        self.loop.close()


Walk.TestCase.settings = settings(stateful_step_count=30)
TestWalk = Walk.TestCase
