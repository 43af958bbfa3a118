"""The parent's own socket: lines, answers, and more clients than it accepts."""

import json
import socket

import pytest

from lonc.child.client import READ_AHEAD
from lonc.errors import CannotStart
from lonc.parent.control import MAX_CLIENTS, MAX_LINE, LineServer, outcome
from lonc.runtime.event_loop import EventLoop


@pytest.fixture
def loop():
    loop = EventLoop()
    yield loop
    loop.close()


class Bench:
    def __init__(self, loop, path):
        self.loop, self.path = loop, path
        self.transactions = []
        self.clients = []
        self.server = LineServer(loop, path, 0o600, self.transactions.append)

    def connect(self, data=b""):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5)
        client.connect(str(self.path))
        client.sendall(data)
        self.clients.append(client)
        return client

    def turn(self):
        for _ in range(5):
            self.loop.turn(0)

    def is_closed(self, client):
        client.setblocking(False)
        try:
            return client.recv(1000) == b""
        except BlockingIOError:
            return False

    def close(self):
        for client in self.clients:
            client.close()
        while self.server._listener.clients:
            self.loop.turn(5)
        self.turn()
        self.server.close()


@pytest.fixture
def bench(loop, tmp_path):
    bench = Bench(loop, tmp_path / "lonc.ctl")
    yield bench
    bench.close()


def test_each_line_is_a_transaction_that_is_answered_now_or_later(bench):
    client = bench.connect(b"one\ntwo\n")
    bench.turn()
    assert [bytes(each.request) for each in bench.transactions] == [b"one\n"]
    bench.transactions[0].complete(b"1\n")
    bench.turn()
    assert client.recv(100) == b"1\n"
    assert bytes(bench.transactions[1].request) == b"two\n"


def test_only_the_owner_may_connect(bench):
    assert bench.path.stat().st_mode & 0o777 == 0o600
    bench.server.close()
    assert not bench.path.exists()


def test_a_path_with_another_file_is_an_error(loop, tmp_path):
    with pytest.raises(CannotStart):
        LineServer(loop, tmp_path, 0o600, lambda _: None)


def test_a_line_that_is_too_long_is_no_transaction(bench):
    client = bench.connect(b"x" * MAX_LINE + b"\n")
    bench.turn()
    assert len(bench.transactions) == 1
    other = bench.connect(b"x" * (MAX_LINE + 1) + b"\n")
    bench.turn()
    assert len(bench.transactions) == 1
    assert client.fileno() != other.fileno()


def test_an_order_of_a_client_that_has_disconnected_is_carried_out(bench):
    bench.connect(b"reload\n").close()
    bench.turn()
    (transaction,) = bench.transactions
    transaction.complete(b"done\n")


class TestTooMany:
    def test_the_idle_client_that_came_first_is_disconnected_for_a_new_one(self, bench):
        clients = [bench.connect() for _ in range(MAX_CLIENTS)]
        bench.turn()
        new = bench.connect(b"status\n")
        bench.turn()
        assert [bench.is_closed(each) for each in clients] == [True] + [False] * (MAX_CLIENTS - 1)
        assert len(bench.transactions) == 1
        assert not bench.is_closed(new)

    def test_if_all_wait_for_an_answer_the_one_that_came_first_is_disconnected(self, bench, caplog):
        clients = [bench.connect(b"reload\n") for _ in range(MAX_CLIENTS)]
        bench.turn()
        new = bench.connect(b"status\n")
        bench.turn()
        assert [bench.is_closed(each) for each in clients] == [True] + [False] * (MAX_CLIENTS - 1)
        assert len(bench.transactions) == MAX_CLIENTS + 1  # the order is carried out all the same
        bench.transactions[0].complete(b"late\n")
        bench.transactions[-1].complete(b"1\n")
        assert new.recv(100) == b"1\n"
        assert [message.split(":")[0] for message in caplog.messages] == ["lonc.ctl"]

    def test_a_client_that_does_not_read_its_answer_is_disconnected_too(self, bench):
        for _ in range(MAX_CLIENTS):
            bench.connect(b"status\n")
            bench.turn()
            bench.transactions[-1].complete(b"x" * 10**6 + b"\n")
        new = bench.connect(b"status\n")
        bench.turn()
        bench.transactions[-1].complete(b"1\n")
        assert new.recv(100) == b"1\n"

    def test_a_line_that_has_just_arrived_is_carried_out(self, bench):
        clients = [bench.connect() for _ in range(MAX_CLIENTS)]
        bench.turn()
        # Before the loop turns, all have sent and one more has come.
        for client in clients:
            client.sendall(b"reload\n")
        bench.server._make_room("full")
        assert [bench.is_closed(each) for each in clients] == [True] + [False] * (MAX_CLIENTS - 1)
        assert len(bench.transactions) == MAX_CLIENTS

    def test_one_whose_read_ahead_is_full_is_still_served_to_its_end(self, bench):
        line = b"x" * (MAX_LINE - 1) + b"\n"
        count = READ_AHEAD // MAX_LINE + 10
        bench.connect(line * count)
        bench.turn()
        idle = bench.connect()
        bench.turn()
        bench.server._make_room("full")
        assert bench.is_closed(idle)
        for number in range(count):
            assert len(bench.transactions) == number + 1
            bench.transactions[number].complete(b"1\n")
            bench.turn()


def test_an_outcome_is_one_line_of_json():
    line = outcome(3, "a\nb", drained_within=1.5)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"exit": 3, "text": "a\nb", "drained_within": 1.5}
