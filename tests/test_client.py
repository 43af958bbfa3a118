import os
import socket
import stat
import time

import pytest

from lonc.client import READ_AHEAD, Listener, bind_listener
from lonc.errors import CannotStart
from lonc.event_loop import EventLoop

MAX_REQUEST = 1000


class House:
    """A Listener with the rest of the child played by the test: `waiting` are its transactions."""

    maybe_own = (b"lonc:",)

    def __init__(self, path):
        self.path = path
        self.loop = EventLoop()
        self.listening = bind_listener(path, 0o600)
        self.waiting = []
        self.dropped = []
        self.told = []
        self.at_once = None  # a reply that every transaction gets while it is being queued
        self.clients = []
        self.listener = self.make(max_clients=3)

    def make(self, max_clients):
        return Listener(
            self.loop,
            self.listening,
            self,
            max_clients=max_clients,
            max_request=MAX_REQUEST,
            on_full=self.told.append,
            on_drained=lambda: self.told.append("drained"),
        )

    def answer(self, request):
        return b"own\n" if request == b"lonc:status\n" else None

    def queue_transaction(self, transaction):
        if self.at_once is not None:
            transaction.complete(self.at_once)
        else:
            self.waiting.append(transaction)

    def drop_transaction(self, transaction):
        self.dropped.append(transaction)

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        self.clients.append(client)
        client.settimeout(10)
        client.connect(str(self.path))
        self.turn()
        return client

    def turn(self):
        """Turn until nothing is left to do."""
        for _ in range(5):
            self.loop.turn(0)

    def end(self):
        for client in self.clients:
            client.close()
        self.turn()
        assert self.listener.clients == set()
        self.loop.close()
        self.listening.close()


@pytest.fixture
def house(tmp_path):
    house = House(tmp_path / "l1")
    yield house
    house.end()


def test_a_line_in_and_a_line_out(house):
    client = house.connect()
    client.sendall(b"ping\n")
    house.turn()
    assert [each.request for each in house.waiting] == [b"ping\n"]
    house.waiting.pop().complete(b"l1\n")
    assert client.recv(100) == b"l1\n"


def test_a_line_in_parts_is_one_request(house):
    client = house.connect()
    for part in (b"pi", b"n", b"g", b"\n"):
        client.sendall(part)
        assert house.waiting == []
        house.turn()
    assert house.waiting[0].request == b"ping\n"


@pytest.mark.parametrize("line", [b"\n", b"\0\xff\r\t:\n", b"x" * MAX_REQUEST + b"\n"])
def test_bytes_are_opaque(house, line):
    house.connect().sendall(line)
    house.turn()
    assert house.waiting[0].request == line


def test_several_lines_at_once_are_served_one_at_a_time_and_in_order(house):
    client = house.connect()
    client.sendall(b"1\n2\n3\n")
    house.turn()
    for number in (b"1\n", b"2\n", b"3\n"):
        (transaction,) = house.waiting
        assert transaction.request == number
        house.waiting.clear()
        transaction.complete(b"reply " + number)
    assert client.recv(100) == b"reply 1\nreply 2\nreply 3\n"


def test_ten_thousand_lines_answered_while_they_are_queued_are_no_ten_thousand_frames(house):
    house.at_once = b"ok\n"
    client = house.connect()
    client.sendall(b"x\n" * 10_000)
    received = b""
    while len(received) < 30_000:
        house.turn()
        received += client.recv(100_000)
    assert received == b"ok\n" * 10_000


def test_a_failure_is_told_as_con_lost(house):
    client = house.connect()
    client.sendall(b"ping\n")
    house.turn()
    house.waiting.pop().fail("broken")
    assert client.recv(100) == b"con_lost\n"


def test_lines_for_lonc_itself_are_answered_at_once_in_their_order(house):
    client = house.connect()
    client.sendall(b"lonc:status\nlonc:other\nlonc:status\n")
    house.turn()
    assert client.recv(100) == b"own\n"
    assert house.waiting[0].request == b"lonc:other\n"
    house.waiting.pop().complete(b"lond's\n")
    assert client.recv(100) == b"lond's\nown\n"


def test_a_request_over_the_limit_is_told_and_its_client_is_let_go(house):
    client = house.connect()
    client.sendall(b"ping\n" + b"x" * (MAX_REQUEST + 1))
    house.turn()
    house.waiting.pop().complete(b"l1\n")
    house.turn()
    assert client.recv(100) == b"l1\nerror: request too long\n"
    assert client.recv(100) == b""
    assert house.waiting == []


def test_a_client_that_closed_its_sending_side_gets_its_replies(house):
    client = house.connect()
    client.sendall(b"1\n2\nhalf a line")
    client.shutdown(socket.SHUT_WR)
    house.turn()
    house.waiting.pop().complete(b"one\n")
    house.turn()
    house.waiting.pop().complete(b"two\n")
    assert client.recv(100) == b"one\ntwo\n"
    assert client.recv(100) == b""
    assert house.waiting == []


def test_a_client_that_leaves_has_its_transaction_dropped_and_its_lines_forgotten(house):
    client = house.connect()
    client.sendall(b"1\n2\n")
    client.close()
    house.turn()
    assert house.dropped == house.waiting
    assert house.listener.clients == set()
    house.waiting.pop().complete(b"to nobody\n")  # it had been in flight
    house.turn()
    assert house.waiting == []


def test_a_reply_to_a_client_that_has_just_left_goes_nowhere(house):
    client = house.connect()
    client.sendall(b"1\n2\n")
    house.turn()
    client.close()
    house.waiting.pop().complete(b"one\n")  # before the loop has seen that it left
    assert house.listener.clients == set()
    house.turn()
    assert house.waiting == []


def test_a_client_that_first_closes_one_side_and_then_leaves_is_noticed(house):
    client = house.connect()
    client.sendall(b"1\n")
    client.shutdown(socket.SHUT_WR)
    house.turn()
    assert house.dropped == []
    client.close()
    house.turn()
    assert house.dropped == house.waiting


def test_a_client_that_leaves_while_it_is_read_ahead_is_noticed(house):
    client = house.connect()
    client.setblocking(False)
    client.sendall(b"1\n")
    house.turn()
    with pytest.raises(BlockingIOError):
        client.sendall(b"x\n" * 10**7)
    house.turn()
    client.close()
    house.turn()
    assert house.listener.clients == set()


def test_no_more_than_64_kib_are_read_ahead_and_reading_goes_on(house):
    client = house.connect()
    client.setblocking(False)
    client.sendall(b"1\n")
    house.turn()
    total = 0
    try:
        while True:
            total += client.send(b"y" * 999 + b"\n")
            house.turn()
    except BlockingIOError:
        pass
    (held,) = house.listener.clients
    assert len(held._lines) == READ_AHEAD
    client.setblocking(True)
    client.shutdown(socket.SHUT_WR)
    answered = 0
    while house.waiting:
        house.waiting.pop().complete(b"z\n")
        house.turn()
        answered += 1
    assert answered == 1 + total // 1000
    assert client.recv(1 << 20) == b"z\n" * answered


def test_a_single_line_that_fills_the_read_ahead_does_not_stop_reading(house):
    house.listener._max_request = 10**6
    client = house.connect()
    client.sendall(b"1\n" + b"x" * (READ_AHEAD - 1) + b"\n")
    house.turn()
    house.waiting.pop().complete(b"one\n")
    house.turn()
    house.waiting.pop().complete(b"two\n")
    house.turn()
    client.sendall(b"3\n")
    house.turn()
    assert house.waiting[0].request == b"3\n"


def test_a_client_that_does_not_read_its_reply_waits_alone(house):
    slow, quick = house.connect(), house.connect()
    slow.sendall(b"big\nnext\n")
    house.turn()
    reply = b"x" * 10**7 + b"\n"
    house.waiting.pop().complete(reply)
    house.turn()
    assert house.waiting == []  # the next line waits until the reply has left
    quick.sendall(b"ping\n")
    house.turn()
    house.waiting.pop().complete(b"l1\n")
    assert quick.recv(100) == b"l1\n"
    received = 0
    while received < len(reply):
        received += len(slow.recv(1 << 20))
        house.turn()
    assert house.waiting[0].request == b"next\n"


def test_at_the_limit_of_clients_the_rest_waits_and_is_served_when_others_leave(house):
    clients = [house.connect() for _ in range(5)]
    assert len(house.listener.clients) == 3
    assert house.told == ["3 clients are connected, the most: more must wait"]
    for client in clients:
        client.sendall(b"ping\n")
    house.turn()
    assert len(house.waiting) == 3
    clients[0].close()
    clients[1].close()
    house.turn()
    assert len(house.waiting) == 5
    clients[2].close()
    house.turn()
    assert len(house.listener.clients) == 2
    assert len(set(house.told)) == 1


def test_when_the_last_place_is_taken_and_nobody_waits_nothing_is_told(house):
    for _ in range(2):
        house.connect()
    for _ in range(10):
        house.connect().close()
        house.turn()
    house.connect()
    assert house.told == []


def test_an_accept_that_fails_is_tried_again(house):
    tries = []

    class Failing(socket.socket):
        def accept(self):
            tries.append(house.loop.now)
            return super().accept()

    house.listener._socket = Failing()  # which does not listen
    client = house.connect()
    house.turn()
    assert house.told == ["cannot accept: Invalid argument"]
    assert len(tries) == 1  # not in every turn
    house.listener._socket.close()
    house.listener._socket = house.listening
    client.sendall(b"ping\n")
    deadline = time.monotonic() + 10
    while not house.waiting and time.monotonic() < deadline:
        house.loop.turn(1)
    assert house.waiting[0].request == b"ping\n"


def test_draining_serves_what_has_arrived_and_nothing_later(house):
    idle, asking, waiting = [house.connect() for _ in range(3)]
    asking.sendall(b"1\n")
    house.turn()
    waiting.sendall(b"2\nhalf")  # not yet read
    house.listener.drain()
    house.turn()
    with pytest.raises(BrokenPipeError):
        asking.sendall(b"late\n")
    assert idle.recv(100) == b""
    assert [each.request for each in house.waiting] == [b"1\n", b"2\n"]
    assert house.told == []
    for transaction in house.waiting:
        transaction.complete(b"done\n")
    for client in (asking, waiting):
        assert client.recv(100) == b"done\n"
        assert client.recv(100) == b""
    house.turn()
    assert house.told[-1] == "drained"


def test_draining_without_clients_is_over_at_once(house):
    house.listener.drain()
    assert house.told == ["drained"]


def test_draining_loses_nothing_of_a_client_that_is_far_ahead(house):
    client = house.connect()
    client.setblocking(False)
    sent = 0
    try:
        while True:
            sent += client.send(b"y\n" * 500)
            house.turn()
    except BlockingIOError:
        pass
    house.listener.drain()
    answered = 0
    while house.waiting:
        house.waiting.pop().complete(b"z\n")
        house.turn()
        answered += 1
        client.recv(1 << 20)
    assert answered == sent // 2
    assert house.told[-1] == "drained"


def test_a_listener_has_its_mode_and_its_name_from_the_first_moment(tmp_path):
    path = tmp_path / "l1"
    umask = os.umask(0)
    try:
        listening = bind_listener(path, 0o640)
        assert os.umask(0) == 0
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["l1"]
    listening.close()


def test_a_dead_daemons_socket_is_replaced_and_anything_else_is_left(tmp_path):
    bind_listener(tmp_path / "l", 0o600).close()
    bind_listener(tmp_path / "l", 0o600).close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(CannotStart, match="file is in the way, and no socket: remove it"):
        bind_listener(tmp_path / "file", 0o600)
    assert (tmp_path / "file").read_text() == "precious"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".1").mkdir()
    with pytest.raises(CannotStart, match=r"cannot listen at .*/full/l1: Is a directory"):
        bind_listener(tmp_path / "full" / "l1", 0o600)
    with pytest.raises(CannotStart, match=r"cannot listen at .*/none/l1: No such file or directory"):
        bind_listener(tmp_path / "none" / "l1", 0o600)
