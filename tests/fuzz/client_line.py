"""Bytes that a program writes to the socket of a host, read by the real Client over a real socket."""

import contextlib
import socket

from lonc.child.client import Client
from lonc.child.own_requests import OWN_PREFIXES, OwnRequests
from lonc.replies import TOO_LONG
from lonc.runtime.event_loop import EventLoop

from .pieces import in_pieces

LIMIT = 40  # bytes of a request
STATUS = b"{}\n"

WORDS = [
    b"\n", b"\r", b"\0", b"encrypt:", b"init", b"ekey", b"exit", b"sethost:",
    b"sethost:l3:", b"sethost:l2:", b"lonc:", b"lonc:status", b"reset_retries",
    b"close_connection_exit", b"enc:1:", b"x" * LIMIT, b"\x08", b"\xc0", b"\xff",
]  # fmt: skip


_ENDS = (b"ekey\n", b"ekey:", b"exit\n", b"exit:")


def own_reply(request, by_dns=False):
    """lonc's own reply to a request, by the table of the protocol; None if the request is for lond."""
    word, *more = request[:-1].split(b":", 2)
    if by_dns and word == b"sethost" and len(more) == 2:
        return own_reply(more[1] + b"\n") if more[0] in (b"l1", b"l3") else b"no_such_host\n"
    bare = request.removeprefix(b"encrypt:")
    if bare.startswith((b"init", b"sethost:")) or bare[:5] in _ENDS:
        return b"refused\n"
    if request.startswith(b"lonc:"):
        return STATUS if request == b"lonc:status\n" else b"error: unknown lonc command\n"
    return b"ok\n" if request in (b"reset_retries\n", b"close_connection_exit\n") else None


def due(stream, by_dns):
    """The replies due to a stream of requests, and the requests in it that are for lond."""
    replies, requests = [], []
    *lines, rest = stream.split(b"\n")
    for line in lines:
        if len(line) > LIMIT:
            return b"".join([*replies, TOO_LONG + b"\n"]), requests
        own = own_reply(line + b"\n", by_dns)
        if own is None:
            requests.append(line + b"\n")
        replies.append(own or b"=%b\n" % line)
    return b"".join([*replies, TOO_LONG + b"\n"] if len(rest) > LIMIT else replies), requests


class _Services:
    """A fake child for a client: replies `at_once`, or when the test calls `reply`."""

    own_prefixes = OWN_PREFIXES

    def __init__(self, by_dns):
        own = OwnRequests(
            ("l1", "l3") if by_dns else None,
            status=lambda: STATUS,
            retry=lambda: None,
            replace=lambda: None,
        )
        self.answer = own.answer
        self.requests, self.at_once, self.left = [], False, False
        self._waiting = []

    def queue_transaction(self, transaction):
        assert not self._waiting, "a second transaction before the reply to the first"
        self.requests.append(transaction.request)
        self._waiting.append(transaction)
        if self.at_once:
            self.reply()

    def reply(self):
        if self._waiting:
            transaction = self._waiting.pop()
            transaction.complete(b"=" + transaction.request)

    def on_left(self, client):
        self.left = True

    def report_growth(self, count):
        pass


def client_line(data):
    """Each whole line gets one reply, its own, in order; a line that is too long ends the stream.

    lond gets the requests that are for lond, unchanged, and none that would change a shared connection.
    The result does not depend on how the bytes are split, when lond replies, or when the program reads.
    In the end the program is disconnected.
    """
    pieces = in_pieces(data)
    by_dns = bool(data[:1]) and data[0] & 8 != 0
    services, loop = _Services(by_dns), EventLoop()
    ours, program = socket.socketpair()
    received = bytearray()

    def take():
        # A client that is disconnected with data unread gets its replies, and then a reset.
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while more := program.recv(65536, socket.MSG_DONTWAIT):
                received.extend(more)

    with contextlib.closing(loop), ours, program:
        client = Client(loop, ours, services, LIMIT, services.on_left)
        for piece, at_once, reads in pieces:
            services.at_once = at_once
            with contextlib.suppress(BrokenPipeError):  # it has been disconnected
                program.send(piece)
            loop.turn(0)
            if reads:
                services.reply()
                take()
        with contextlib.suppress(OSError):
            program.shutdown(socket.SHUT_WR)
        for _ in range(len(data) + 10):
            if services.left:
                break
            loop.turn(0)
            services.reply()
            take()
        assert services.left, "the program is not disconnected"
        assert client.held == 0
        take()
    replies, requests = due(b"".join(piece for piece, *_ in pieces), by_dns)
    assert services.requests == requests
    assert received == replies
