"""A client: one local program at the host's socket, which writes requests and reads replies."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lonc.child.transaction import Transaction
from lonc.replies import CON_LOST, TOO_LONG
from lonc.runtime.event_loop import FORGOTTEN, READ, EventLoop
from lonc.runtime.line_buffer import Line, LineBuffer, LineTooLong

READ_AHEAD = 65536  # bytes read from a client beyond its current line

_CREDENTIALS = struct.Struct("iII")  # pid, user, group


class Services(Protocol):
    """The rest of the child, as a client needs it."""

    own_prefixes: tuple[bytes, ...]  # `answer` is called for lines that begin with one of these

    def answer(self, request: Line, client: Client) -> bytes | None:
        """lonc's own reply to `request`, a line; None if the request is for lond."""

    def queue_transaction(self, transaction: Transaction) -> None: ...

    def drop_transaction(self, transaction: Transaction) -> None:
        """The client has left. A transaction that is still queued must not start."""

    def report_growth(self, count: int) -> None:
        """`count` more bytes of unfinished or queued lines are held."""


@dataclass(frozen=True)
class Passing:
    """A client between two requests, on its way to the next child."""

    connection: socket.socket
    owed: bytes  # the rest of its last reply, through the newline; empty if all has been sent
    held: bytes  # read from it, not yet served
    ended: bool  # nothing more will be read from it


PassOn = Callable[[Passing], None]


class Client(Transaction):
    """Serves one client: takes a line, writes its reply, then takes the next line.

    A client is busy while its request is under way or part of a reply is unsent; what it sends meanwhile
    is read ahead, up to READ_AHEAD bytes. One that has closed only its sending side still gets its
    replies. Callback: `on_left(client)`, once, when it was closed or passed on.

    Its state is in five fields. Between two callbacks of the loop an open client is in one of these
    rows, and it is watched for reading and writing as they say:

        _in_flight  _unsent  _ended  _pass_on   reads           writes
        ----------------------------------------------------------------------------
        no          no       no      None       yes             no    idle
        no          yes      no      None       while room      yes   its reply is being sent
        no          yes      yes     None       no              yes   the same; then it is closed
        yes         no       no      None       while room      no    its request is under way
        yes         no       yes     None       no              no    the same; after the reply, closed
        yes         no       either  set        no              no    the same; after the reply, passed
        on

    "While room" is while less than READ_AHEAD bytes are held. `_serving` is set only inside
    `_serve_lines`. `request` is empty unless a request is in flight.
    """

    __slots__ = (
        "_ended",
        "_in_flight",
        "_lines",
        "_loop",
        "_on_left",
        "_pass_on",
        "_services",
        "_serving",
        "_socket",
        "_unsent",
        "_watch",
        "active",
    )

    def __init__(
        self,
        loop: EventLoop,
        connection: socket.socket,
        services: Services,
        max_request: int,
        on_left: Callable[[Client], None],
    ) -> None:
        connection.setblocking(False)
        self._loop = loop
        self._socket = connection
        self._services = services
        self._on_left = on_left
        self._lines = LineBuffer(max_request)
        self.request = b""
        self.since = 0.0
        self.active = loop.now  # when it last sent, got or took something
        self._in_flight = False  # its request is queued or sent
        self._pass_on: PassOn | None = None  # called after the reply, instead of serving the next line
        self._unsent: bytes | memoryview = b""
        self._ended = False  # nothing more will be read
        self._serving = False  # `_serve_lines` is on the stack
        self._watch = loop.watch(
            connection, self.client_request, self.client_writable, on_hangup=self.close
        )

    @property
    def held(self) -> int:
        """Bytes in memory for it: its request, lines read ahead, and the reply that it has not read."""
        return len(self.request) + len(self._lines) + _memory(self._unsent)

    @property
    def owner(self) -> tuple[int, int]:
        """User and group of the program when it connected."""
        _, user, group = _CREDENTIALS.unpack(
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        return user, group

    @property
    def may_administer(self) -> bool:
        """Whether its requests may affect other clients: it runs as root, as our user or in our group.
        (The permission to connect does not say so.)"""
        user, group = self.owner
        return user in (0, os.geteuid()) or group == os.getegid()

    @property
    def in_flight(self) -> bool:
        """Whether a request of it is under way."""
        return self._in_flight

    @property
    def is_idle(self) -> bool:
        """Whether it has no request in flight and has been sent all its replies."""
        return not self._in_flight and not self._unsent

    def client_request(self) -> None:
        """Callback: the socket is readable: the client has sent data, or closed its sending side."""
        busy = self._in_flight or self._unsent
        self.active = self._loop.now
        try:
            data = self._socket.recv(READ_AHEAD - len(self._lines) if busy else READ_AHEAD)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._ended = True
        if busy:
            self._lines.feed(data)
            self._update_watch()
        else:
            self._serve_lines(data)
        if self._lines.rest:
            self._services.report_growth(len(data))

    def client_writable(self) -> None:
        """Callback: more of the reply can be sent."""
        self.active = self._loop.now
        self._send(self._unsent)
        self._serve_lines()

    def resume(self, passing: Passing) -> None:
        """Continue to serve a client that another child has passed on."""
        self._ended = passing.ended
        self._lines.feed(passing.held)
        if passing.owed:
            self._send(passing.owed)
        self._serve_lines()

    def complete(self, reply: Line) -> None:
        """Callback: lond has replied. The client may have left meanwhile."""
        if not self._in_flight:
            raise AssertionError("a transaction ends once")
        self._in_flight = False
        self.request = b""
        self.active = self._loop.now
        if self._watch.events == FORGOTTEN:
            return
        self._send(reply)
        if self._pass_on is not None:
            if self._watch.events != FORGOTTEN:
                self._pass_to(self._pass_on)
        elif self._lines.rest or self._ended:
            self._serve_lines()

    def fail(self, why: str) -> None:
        """Callback: there will be no reply."""
        self.complete(CON_LOST + b"\n")

    def leave(self, pass_on: PassOn) -> None:
        """Call `pass_on` with this client: now, or after the reply to its request in flight. Nothing
        more is read here."""
        if self._watch.events == FORGOTTEN:
            return
        if self._in_flight:
            self._pass_on = pass_on
            self._watch.want(read=False)
        else:
            self._pass_to(pass_on)

    def drain(self) -> None:
        """Serve the lines that have arrived, none that arrive later, then close."""
        if self._watch.events == FORGOTTEN:
            return
        self._pass_on = None
        self._socket.shutdown(socket.SHUT_RD)
        self._update_watch()
        if self._watch.events != FORGOTTEN and self._watch.events & READ:
            self.client_request()

    def close(self, _why: str = "") -> None:
        """Disconnect the client; a reply to its request in flight is discarded. A second time does
        nothing."""
        if self._watch.events == FORGOTTEN:
            return
        self._watch.forget()
        self._socket.close()
        self._ended = True
        self._lines = LineBuffer(0)
        self._unsent = b""
        if self._in_flight:
            self._services.drop_transaction(self)
        self._on_left(self)

    def _pass_to(self, pass_on: PassOn) -> None:
        self._watch.forget()
        pass_on(Passing(self._socket, bytes(self._unsent), self._lines.held(), self._ended))
        self._on_left(self)

    def _serve_lines(self, data: bytes = b"") -> None:
        """Feed `data`, then serve line after line until the client is busy.

        A transaction may end while it is being queued, and `complete` then calls this again: the inner
        call only feeds, the outer goes on. So the stack does not grow with the number of lines.
        """
        if self._serving:
            self._lines.feed(data)
            return
        self._serving = True
        services = self._services
        while not self._in_flight and not self._unsent:
            try:
                line = self._lines.next_line(data)
            except LineTooLong:
                self._ended = True
                self._lines = LineBuffer(0)
                self._send(TOO_LONG + b"\n")
                break
            if line is None:
                break
            data = b""
            if (
                line.startswith(services.own_prefixes)
                and (answer := services.answer(line, self)) is not None
            ):
                self._send(answer)
            else:
                self._in_flight = True
                self.request = line
                services.queue_transaction(self)
        self._serving = False
        if self._ended or self._lines.rest or self._watch.events != READ:
            self._update_watch()

    def _update_watch(self) -> None:
        """Watch for reading while there is room; close if nothing more can be read or sent."""
        busy = self._in_flight or self._unsent
        if self._ended and not busy:
            self.close()
        elif self._watch.events != FORGOTTEN:
            self._watch.want(read=not self._ended and not (busy and len(self._lines) >= READ_AHEAD))

    def _send(self, data: Line | memoryview) -> None:
        """Send now what the socket takes, the rest when it is writable."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            self._watch.want(write=True)
        elif self._unsent:
            self._unsent = b""
            self._watch.want(write=False)


def _memory(unsent: bytes | memoryview) -> int:
    """Bytes that `unsent` keeps in memory: a view keeps the whole reply."""
    return len(memoryview(unsent).obj)  # type: ignore[arg-type]
