import socket

import pytest

from lonc.channel import Channel
from lonc.event_loop import EventLoop


class Line:
    def __init__(self):
        self.loop = EventLoop()
        ours, self.there = socket.socketpair()
        self.heard = []
        self.channel = Channel(
            self.loop, ours, self.heard.append, lambda: self.heard.append("closed"), max_line=100
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


def test_what_the_socket_does_not_take_goes_later_and_in_order(line):
    big = b"x" * 10**6 + b"\n"
    line.channel.send(big)
    line.channel.send(b"last\n")
    received = bytearray()
    while not received.endswith(b"last\n"):
        line.loop.turn(0)
        received += line.there.recv(1 << 16)
    assert received == big + b"last\n"


@pytest.mark.parametrize("last", [b"", b"x" * 101])
def test_the_end_of_the_other_side_is_told_once(line, last):
    line.there.sendall(last)
    line.there.close()
    line.loop.turn(5)
    line.loop.turn(0)
    assert line.heard == ["closed"]
    line.channel.send(b"to nobody\n")


def test_sending_to_one_who_has_left_is_his_end(line):
    line.there.close()
    line.channel.send(b"x\n")
    assert line.heard == ["closed"]


def test_after_close_nothing_is_called_not_even_for_lines_already_here(line):
    line.channel._on_line = lambda got: (line.heard.append(got), line.channel.close())
    line.there.sendall(b"one\ntwo\n")
    line.loop.turn(5)
    line.loop.turn(0)
    assert line.heard == [b"one\n"]
