"""One local program: a line in, a line out, then the next."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lonc.child.transaction import Transaction
from lonc.replies import CON_LOST, TOO_LONG
from lonc.runtime.event_loop import FORGOTTEN, READ, EventLoop
from lonc.runtime.line_buffer import Line, LineBuffer, LineTooLong

READ_AHEAD = 65536  # bytes taken from a client beyond its current line

_CREDENTIALS = struct.Struct("iII")  # pid, user, group


class Services(Protocol):
    """What a client asks of the rest of the child."""

    maybe_own: tuple[bytes, ...]  # how what `answer` may know begins; all else goes to lond unseen

    def answer(self, request: Line, client: Client) -> bytes | None:
        """lonc's own reply to a request that begins like one for lonc itself; None: it is lond's."""

    def queue_transaction(self, transaction: Transaction) -> None: ...

    def drop_transaction(self, transaction: Transaction) -> None:
        """Nobody waits for it any more."""

    def held(self, count: int) -> None:
        """So many more bytes of unfinished or waiting lines are held."""


@dataclass(frozen=True)
class Passing:
    """A client between two requests, on its way to the next child."""

    connection: socket.socket
    owed: bytes  # what is left of its last reply, up to the newline; empty if all has left
    held: bytes  # what was read from it and not yet served
    ended: bool  # nothing more is to be read from it


PassOn = Callable[[Passing], None]


class Client(Transaction):
    """One local program: a line in, a line out, then the next.

    It is busy while its request is under way or its reply has not all left; what it sends meanwhile is
    read ahead. When only its sending side is closed, it still gets its replies.
    """

    __slots__ = (
        "_asking",
        "_ended",
        "_lines",
        "_on_left",
        "_pass_on",
        "_services",
        "_serving",
        "_socket",
        "_unsent",
        "_watch",
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
        self._socket = connection
        self._services = services
        self._on_left = on_left
        self._lines = LineBuffer(max_request)
        self.request = b""
        self.since = 0.0
        self._asking = False  # our request is under way
        self._pass_on: PassOn | None = None  # where to go when it has ended
        self._unsent: bytes | memoryview = b""
        self._ended = False  # nothing more will be read
        self._serving = False
        self._watch = loop.watch(
            connection, self.client_request, self.client_writable, on_hangup=self.close
        )

    @property
    def held(self) -> int:
        """Bytes that we hold of it: what it has sent, and what it has not taken."""
        return len(self.request) + len(self._lines) + _size(self._unsent)

    @property
    def owner(self) -> tuple[int, int]:
        """User and group of the program, as they were when it connected."""
        _, user, group = _CREDENTIALS.unpack(
            self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        return user, group

    @property
    def at_rest(self) -> bool:
        """It waits for nothing, and has nothing to take."""
        return not self._asking and not self._unsent

    def client_request(self) -> None:
        """Callback: the client has sent something, or closed its sending side."""
        busy = self._asking or self._unsent
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
            self._read_on()
        else:
            self._serve(data)
        if self._lines.rest:
            self._services.held(len(data))

    def client_writable(self) -> None:
        """Callback: more of the reply can leave."""
        self._send(self._unsent)
        self._serve()

    def go_on(self, passing: Passing) -> None:
        """Take up where another child has stopped."""
        self._ended = passing.ended
        self._lines.feed(passing.held)
        if passing.owed:
            self._send(passing.owed)
        self._serve()

    def complete(self, reply: Line) -> None:
        """Callback: our request has been answered. (The program may have left.)"""
        if not self._asking:
            raise AssertionError("a transaction ends once")
        self._asking = False
        self.request = b""
        if self._watch.events == FORGOTTEN:
            return
        self._send(reply)
        if self._pass_on is not None:
            if self._watch.events != FORGOTTEN:
                self._be_passed(self._pass_on)
        elif self._lines.rest or self._ended:
            self._serve()

    def fail(self, why: str) -> None:
        """Callback: there will be no reply."""
        self.complete(CON_LOST + b"\n")

    def leave(self, pass_on: PassOn) -> None:
        """Be passed on, at once or after the reply to what is in flight; nothing more is read here."""
        if self._watch.events == FORGOTTEN:
            return
        if self._asking:
            self._pass_on = pass_on
            self._watch.want(read=False)
        else:
            self._be_passed(pass_on)

    def drain(self) -> None:
        """Serve what has arrived, and nothing that arrives later."""
        if self._watch.events == FORGOTTEN:
            return
        self._pass_on = None
        self._socket.shutdown(socket.SHUT_RD)
        self._read_on()
        if self._watch.events != FORGOTTEN and self._watch.events & READ:
            self.client_request()

    def close(self) -> None:
        """Let the client go; what it has under way ends unheard."""
        if self._watch.events == FORGOTTEN:
            return
        self._watch.forget()
        self._socket.close()
        self._ended = True
        self._lines = LineBuffer(0)
        self._unsent = b""
        if self._asking:
            self._services.drop_transaction(self)
        self._on_left(self)

    def let_go(self, _: str) -> None:
        self.close()

    def _be_passed(self, pass_on: PassOn) -> None:
        self._watch.forget()
        pass_on(Passing(self._socket, bytes(self._unsent), self._lines.held(), self._ended))
        self._on_left(self)

    def _serve(self, data: bytes = b"") -> None:
        """Take line after line until one must wait, `data` having just arrived.

        Whatever comes back in here meanwhile, a reply given at once above all, is left to the loop that
        is already going: the stack does not grow with the lines.
        """
        if self._serving:
            self._lines.feed(data)
            return
        self._serving = True
        services = self._services
        while not self._asking and not self._unsent:
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
                line.startswith(services.maybe_own)
                and (answer := services.answer(line, self)) is not None
            ):
                self._send(answer)
            else:
                self._asking = True
                self.request = line
                services.queue_transaction(self)
        self._serving = False
        if self._ended or self._lines.rest or self._watch.events != READ:
            self._read_on()

    def _read_on(self) -> None:
        """Read only what there is room for; leave when nothing more can come or go."""
        busy = self._asking or self._unsent
        if self._ended and not busy:
            self.close()
        elif self._watch.events != FORGOTTEN:
            self._watch.want(read=not self._ended and not (busy and len(self._lines) >= READ_AHEAD))

    def _send(self, data: Line | memoryview) -> None:
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


def _size(unsent: bytes | memoryview) -> int:
    """What is kept for it in memory, which is more than what has not left."""
    return len(memoryview(unsent).obj)  # type: ignore[arg-type]
