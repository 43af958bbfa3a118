import os
import socket
import time

import pytest
from support.fake_child import MAX_REQUEST, FakeChild

from lonc.child.client import Passing
from lonc.child.listener import IDLE_LOOKS, Listener


@pytest.fixture
def fake(tmp_path):
    fake = FakeChild(tmp_path / "l1")
    yield fake
    fake.end()


def test_at_the_limit_of_clients_the_rest_waits_and_is_served_when_others_leave(fake):
    clients = [fake.connect() for _ in range(5)]
    assert len(fake.listener.clients) == 3
    assert fake.events == ["3 clients are connected, the most: more must wait"]
    for client in clients:
        client.sendall(b"ping\n")
    fake.turn()
    assert len(fake.waiting) == 3
    clients[0].close()
    clients[1].close()
    fake.turn()
    assert len(fake.waiting) == 5
    clients[2].close()
    fake.turn()
    assert len(fake.listener.clients) == 2
    assert len(set(fake.events)) == 1


def test_the_last_place_taken_without_a_waiting_client_is_not_reported(fake):
    for _ in range(2):
        fake.connect()
    for _ in range(10):
        fake.connect().close()
        fake.turn()
    fake.connect()
    assert fake.events == []


def test_an_accept_that_fails_is_tried_again(fake):
    tries = []

    class Failing(socket.socket):
        def accept(self):
            tries.append(fake.loop.now)
            return super().accept()

    listening, fake.listener._socket = fake.listener._socket, Failing()  # which does not listen
    client = fake.connect()
    fake.turn()
    assert fake.events == ["cannot accept: Invalid argument"]
    assert len(tries) == 1  # not in every turn
    fake.listener._socket.close()
    fake.listener._socket = listening
    client.sendall(b"ping\n")
    deadline = time.monotonic() + 10
    while not fake.waiting and time.monotonic() < deadline:
        fake.loop.turn(1)
    assert fake.waiting[0].request == b"ping\n"


def test_draining_serves_what_has_arrived_and_nothing_later(fake):
    idle, asking, waiting = [fake.connect() for _ in range(3)]
    asking.sendall(b"1\n")
    fake.turn()
    waiting.sendall(b"2\nhalf")  # not yet read
    fake.listener.drain()
    fake.turn()
    with pytest.raises(BrokenPipeError):
        asking.sendall(b"late\n")
    assert idle.recv(100) == b""
    assert [each.request for each in fake.waiting] == [b"1\n", b"2\n"]
    assert fake.events == []
    for transaction in fake.waiting:
        transaction.complete(b"done\n")
    for client in (asking, waiting):
        assert client.recv(100) == b"done\n"
        assert client.recv(100) == b""
    fake.turn()
    assert fake.events[-1] == "drained"


def test_draining_without_clients_is_over_at_once(fake):
    fake.listener.drain()
    assert fake.events == ["drained"]


def test_draining_loses_nothing_of_a_client_that_is_far_ahead(fake):
    client = fake.connect()
    client.setblocking(False)
    sent = 0
    try:
        while True:
            sent += client.send(b"y\n" * 500)
            fake.turn()
    except BlockingIOError:
        pass
    fake.listener.drain()
    answered = 0
    while fake.waiting:
        fake.waiting.pop().complete(b"z\n")
        fake.turn()
        answered += 1
        client.recv(1 << 20)
    assert answered == sent // 2
    assert fake.events[-1] == "drained"


class Next:
    """The next child, as a fake."""

    def __init__(self):
        self.counts = []
        self.passed = []

    @property
    def count(self):
        return self.counts[-1]

    def announce(self, count):
        self.counts.append(count)

    def pass_on(self, passing):
        self.passed.append(passing)

    def close(self):
        for passing in self.passed:
            passing.connection.close()


@pytest.fixture
def next_child():
    next_child = Next()
    yield next_child
    next_child.close()


def test_leaving_passes_on_clients_between_two_requests_with_their_read_bytes(fake, next_child):
    idle, half = fake.connect(), fake.connect()
    half.sendall(b"half a li")
    fake.turn()
    fake.listener.leave(next_child)
    assert next_child.counts[0] == 2
    assert next_child.count == 0
    assert sorted(passing.held for passing in next_child.passed) == [b"", b"half a li"]
    assert not any(passing.owed or passing.ended for passing in next_child.passed)
    assert fake.events == ["drained"]
    fake.connect()  # waits in the backlog for the next child
    assert fake.listener.clients == {}
    for passing in next_child.passed:  # the connection itself has noticed nothing
        passing.connection.sendall(b"hello\n")
    assert idle.recv(100) == half.recv(100) == b"hello\n"


@pytest.mark.parametrize("reply", [b"done\n", None])
def test_leaving_passes_on_a_busy_client_after_its_reply(fake, next_child, reply):
    client = fake.connect()
    client.sendall(b"1\n2\n3")
    fake.turn()
    fake.listener.leave(next_child)
    client.sendall(b" and more\n")
    fake.turn()
    assert next_child.passed == []
    assert fake.events == []
    if reply is None:
        fake.waiting.pop().fail("broken")
    else:
        fake.waiting.pop().complete(reply)
    assert client.recv(100) == (reply or b"con_lost\n")
    (passing,) = next_child.passed
    assert passing.held == b"2\n3"
    assert passing.connection.recv(100) == b" and more\n"
    assert fake.waiting == []  # its second line is the next child's
    assert fake.events == ["drained"]


def test_a_client_that_disconnects_meanwhile_is_not_passed_on_but_announced(fake, next_child):
    client = fake.connect()
    client.sendall(b"1\n")
    fake.turn()
    fake.listener.leave(next_child)
    assert next_child.count == 1
    client.close()
    fake.turn()
    assert next_child.count == 0
    assert fake.dropped == fake.waiting
    assert fake.events == ["drained"]
    assert next_child.passed == []


def test_the_unsent_rest_of_a_reply_is_passed_on_with_its_client(fake, next_child):
    client = fake.connect()
    client.sendall(b"big\nnext\n")
    client.shutdown(socket.SHUT_WR)
    fake.turn()
    fake.turn()
    reply = b"x" * 10**6 + b"\n"
    fake.waiting.pop().complete(reply)
    fake.listener.leave(next_child)
    (passing,) = next_child.passed
    assert 0 < len(passing.owed) < len(reply)
    assert passing.held == b"next\n"
    assert passing.ended
    received = bytearray()
    while len(received) + len(passing.owed) < len(reply):
        piece = client.recv(1 << 20)
        assert piece
        received += piece
    assert received + passing.owed == reply


@pytest.fixture
def successor(fake):
    """The listener of a child that takes over from another."""
    fake.listener.drain()
    fake.events.clear()
    fake.listener = Listener(
        fake.loop,
        fake.listening.dup(),
        fake,
        max_clients=3,
        max_request=MAX_REQUEST,
        on_full=fake.events.append,
        on_drained=lambda: fake.events.append("drained"),
        on_no_clients=lambda: None,
        has_predecessor=True,
    )
    return fake


def passing(owed=b"", held=b"", ended=False):
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    return ours, Passing(theirs, owed, held, ended)


def test_a_successor_accepts_no_client_before_the_number_passed_on_is_announced(successor):
    waiting = [successor.connect() for _ in range(3)]
    assert successor.listener.clients == {}
    successor.listener.expect(2)
    successor.turn()
    assert len(successor.listener.clients) == 1  # of three places two are taken
    client, passed = passing()
    successor.clients.append(client)
    successor.listener.adopt(passed)
    successor.turn()
    assert len(successor.listener.clients) == 2
    successor.listener.expect(0)  # the other one has gone
    successor.turn()
    assert len(successor.listener.clients) == 3
    for each in waiting:
        each.sendall(b"ping\n")
    successor.turn()
    assert len(successor.waiting) == 2


def test_an_adopted_client_continues_with_its_next_line(successor):
    client, passed = passing(owed=b"the end of a reply\n", held=b"1\n2\nhal")
    successor.clients.append(client)
    successor.listener.adopt(passed)
    assert client.recv(100) == b"the end of a reply\n"
    assert successor.waiting.pop().request == b"1\n"


def test_an_adopted_client_that_has_closed_its_side_is_disconnected_after_its_replies(successor):
    client, passed = passing(held=b"1\n", ended=True)
    successor.clients.append(client)
    successor.listener.adopt(passed)
    successor.waiting.pop().complete(b"one\n")
    assert client.recv(100) == b"one\n"
    assert client.recv(100) == b""


def test_a_client_adopted_by_a_leaving_child_is_passed_on_at_once(successor, next_child):
    successor.listener.expect(1)
    successor.listener.leave(next_child)
    assert next_child.count == 1
    assert successor.events == []  # one is expected still
    client, passed = passing(held=b"1\n")
    successor.clients.append(client)
    successor.listener.adopt(passed)
    assert next_child.passed == [passed]
    successor.listener.expect(0)
    assert successor.events == ["drained"]


def test_a_client_adopted_by_a_draining_child_is_served_and_disconnected(successor):
    successor.listener.expect(1)
    successor.listener.drain()
    assert successor.events == []
    client, passed = passing(held=b"1\nhalf")
    successor.clients.append(client)
    successor.listener.adopt(passed)
    successor.waiting.pop().complete(b"one\n")
    successor.listener.expect(0)
    successor.turn()
    assert client.recv(100) == b"one\n"
    assert client.recv(100) == b""
    assert successor.events == ["drained"]


def test_draining_while_leaving_serves_its_clients_and_passes_none_on(fake, next_child):
    client = fake.connect()
    client.sendall(b"1\n2\n")
    fake.turn()
    fake.listener.leave(next_child)
    client.sendall(b"3\n4")
    fake.listener.drain()
    for number in (b"1\n", b"2\n", b"3\n"):
        transaction = fake.waiting.pop()
        assert transaction.request == number
        transaction.complete(number)
        fake.turn()
    assert client.recv(100) == b"1\n2\n3\n"
    assert client.recv(100) == b""
    assert fake.events == ["drained"]
    assert next_child.passed == []


def test_if_the_next_child_ends_during_the_handover_the_other_clients_are_served_here(fake, next_child):
    clients = [fake.connect() for _ in range(3)]
    for client in clients:
        client.sendall(b"half")
    fake.turn()
    pass_on = next_child.pass_on
    next_child.pass_on = lambda passing: (pass_on(passing), fake.listener.drain())
    fake.listener.leave(next_child)
    assert len(next_child.passed) == 1
    next_child.close()
    fake.turn()
    assert [client.recv(100) for client in clients] == [b""] * 3


def test_a_client_no_longer_expected_here_is_not_announced_to_the_next_child(successor, next_child):
    successor.listener.expect(5)
    successor.listener.leave(next_child)
    assert next_child.count == 5
    successor.listener.expect(3)
    assert next_child.count == 3


@pytest.mark.parametrize("how", ["leave", "drain"])
def test_the_listening_socket_is_closed_when_no_more_clients_are_accepted(fake, next_child, how):
    """Otherwise clients in the backlog of a removed host would wait for its last request."""
    fake.connect().sendall(b"1\n")
    fake.turn()
    fake.listener.leave(next_child) if how == "leave" else fake.listener.drain()
    late = fake.connect()
    fake.listening.close()
    with pytest.raises(ConnectionResetError):
        late.recv(1)
    fake.waiting.pop().complete(b"one\n")


def test_each_adopted_client_is_one_less_that_is_expected(successor):
    successor.listener.expect(2)
    client, passed = passing()
    successor.clients.append(client)
    successor.listener.adopt(passed)
    assert successor.listener.expected == 1
    successor.listener.expect(0)


def test_when_the_last_client_has_left_it_is_reported(fake):
    calls = []
    fake.listener._on_no_clients = lambda: calls.append(len(fake.listener.clients))
    first, second = fake.connect(), fake.connect()
    first.close()
    fake.turn()
    assert calls == []
    second.close()
    fake.turn()
    assert calls == [0]


def test_if_the_next_child_ends_during_the_handover_a_request_in_flight_is_served_here(fake, next_child):
    fake.connect()
    busy = fake.connect()
    busy.sendall(b"1\n2\n")
    fake.turn()
    pass_on = next_child.pass_on
    next_child.pass_on = lambda passing: (pass_on(passing), fake.listener.drain())
    fake.listener.leave(next_child)
    for number in (b"1\n", b"2\n"):
        fake.waiting.pop().complete(number)
        fake.turn()
    assert busy.recv(100) == b"1\n2\n"
    assert len(next_child.passed) == 1


class TestClientsOfOneUser:
    @pytest.fixture
    def limited(self, fake):
        fake.listener.drain()
        fake.events.clear()
        fake.listener = fake.make(max_clients=10, max_per_user=2)
        return fake

    def test_the_one_that_has_been_idle_longest_makes_room(self, limited):
        first, second = limited.connect(), limited.connect()
        first.sendall(b"lonc:status\n")
        limited.turn()
        assert first.recv(10) == b"own\n"  # so the second is idle for longer
        third = limited.connect()
        assert second.recv(1) == b""
        for client in (first, third):
            client.sendall(b"lonc:status\n")
            limited.turn()
            assert client.recv(10) == b"own\n"
        assert len(limited.listener.clients) == 2

    def test_a_line_that_has_just_arrived_is_served(self, limited):
        first, second = limited.connect(), limited.connect()
        second.sendall(b"lonc:status\n")
        limited.turn()
        first.sendall(b"late\n")
        third = socket.socket(socket.AF_UNIX)
        limited.clients.append(third)
        third.connect(str(limited.path))
        limited.listener.new_client()
        (transaction,) = limited.waiting
        transaction.complete(b"1\n")
        assert first.recv(10) == b"1\n"
        limited.turn()
        assert first.recv(10) == b""

    def test_if_none_is_idle_another_is_refused(self, limited):
        for _ in range(2):
            limited.connect().sendall(b"x\n")
            limited.turn()
        assert limited.connect().recv(1) == b""
        assert limited.events == [f"user {os.getuid()} has 2 clients, all busy: one is refused"]
        for transaction in limited.waiting:
            transaction.complete(b"1\n")
        assert limited.clients[0].recv(10) == b"1\n"

    def test_one_that_has_left_does_not_count(self, limited):
        for _ in range(5):
            limited.connect().close()
            limited.turn()
        clients = [limited.connect(), limited.connect()]
        assert limited.events == []
        assert len(limited.listener._of_user) == 1
        for client in clients:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)


class TestIdleClients:
    @pytest.fixture
    def timed(self, fake):
        fake.listener.drain()
        fake.events.clear()
        fake.listener = fake.make(max_clients=10, idle_timeout=100.0)
        return fake

    def pass_time(self, fake, seconds):
        fake.loop.now += seconds
        fake.listener._idle_alarm._ring()

    def test_a_client_without_a_request_is_disconnected_after_the_timeout(self, timed):
        idle = timed.connect()
        half = timed.connect()
        half.sendall(b"half a li")
        timed.turn()
        idle.setblocking(False)
        with pytest.raises(BlockingIOError):
            idle.recv(1)
        self.pass_time(timed, 100.1)
        assert idle.recv(1) == b""
        assert half.recv(1) == b""

    def test_a_client_that_waits_for_a_reply_is_not(self, timed):
        client = timed.connect()
        client.sendall(b"x\n")
        timed.turn()
        self.pass_time(timed, 1000)
        timed.waiting[0].complete(b"1\n")
        assert client.recv(10) == b"1\n"

    def test_a_client_that_reads_nothing_is(self, timed):
        client = timed.connect()
        client.sendall(b"x\n")
        timed.turn()
        timed.waiting[0].complete(b"x" * 10**6 + b"\n")
        self.pass_time(timed, 200)
        assert len(timed.listener.clients) == 0

    def test_the_alarm_is_set_for_the_next_one_but_seldom(self, timed):
        timed.connect()
        assert timed.listener._idle_alarm.when < timed.loop.now + 100.1
        self.pass_time(timed, 99.9)
        assert timed.listener._idle_alarm.when >= timed.loop.now + 100 / IDLE_LOOKS
