import os
import socket

import pytest
from support.house import MAX_REQUEST, House

from lonc.child.client import READ_AHEAD, Client


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


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("number", [0, 65534, 3_000_000_000])
def test_whose_program_it_is(house, number):
    mine = os.geteuid(), os.getegid()
    os.setegid(number)
    os.seteuid(number)
    try:
        ours, theirs = socket.socketpair()
    finally:
        os.seteuid(mine[0])
        os.setegid(mine[1])
    client = Client(house.loop, ours, house, MAX_REQUEST, lambda _: None)
    assert client.owner == (number, number)
    client.close()
    theirs.close()


def test_its_request_ends_once(house):
    client = house.connect()
    client.sendall(b"1\n")
    house.turn()
    transaction = house.waiting.pop()
    transaction.complete(b"one\n")
    for again in (lambda: transaction.complete(b"1\n"), lambda: transaction.fail("late")):
        with pytest.raises(AssertionError, match="ends once"):
            again()
    assert client.recv(100) == b"one\n"


def test_nothing_of_a_request_is_held_once_it_has_ended(house):
    client = house.connect()
    client.sendall(b"x" * 100 + b"\n")
    house.turn()
    (ours,) = house.listener.clients
    assert ours.held == 101
    house.waiting.pop().complete(b"one\n")
    assert ours.held == 0
    assert client.recv(100) == b"one\n"


def test_a_client_that_leaves_has_its_transaction_dropped_and_its_lines_forgotten(house):
    client = house.connect()
    client.sendall(b"1\n2\n")
    client.close()
    house.turn()
    assert house.dropped == house.waiting
    assert house.listener.clients == {}
    house.waiting.pop().complete(b"to nobody\n")  # it had been in flight
    house.turn()
    assert house.waiting == []


def test_a_reply_to_a_client_that_has_just_left_goes_nowhere(house):
    client = house.connect()
    client.sendall(b"1\n2\n")
    house.turn()
    client.close()
    house.waiting.pop().complete(b"one\n")  # before the loop has seen that it left
    assert house.listener.clients == {}
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
    assert house.listener.clients == {}


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
