"""Lines, and sockets beside them, over a stream socket and through the loop: between our processes.

The end of the stream is the other side's end: it is the life line too.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from lonc.runtime.event_loop import FORGOTTEN, READ, EventLoop
from lonc.runtime.line_buffer import LineBuffer, LineTooLong

RECEIVE_SIZE = 65536
MAX_LINE = 1 << 20  # a status report of one host has a few hundred bytes
SCM_MAX_FD = 253  # sockets that one message can bring, by Linux
PASS_AGAIN = 0.01  # seconds; the kernel limits how many sockets of a user are under way


class Lines(Protocol):
    """What makes lines of what has arrived; a LineBuffer, unless more is to be done."""

    def feed(self, data: bytes) -> None: ...
    def next_line(self) -> bytes | bytearray | None: ...


class Channel:
    """One end. Callbacks: `on_line(line)` with its newline; `on_closed()`, once, unless `close` was
    called here first; `on_sent()` whenever all that was to be sent has left.

    Sockets that were sent along arrive in `received`, in their order, no later than the line they were
    sent with. Whoever takes one from there owns it.
    """

    __slots__ = (
        "_lines",
        "_loop",
        "_on_closed",
        "_on_line",
        "_on_sent",
        "_socket",
        "_unsent",
        "_watch",
        "received",
    )

    def __init__(
        self,
        loop: EventLoop,
        connection: socket.socket,
        on_line: Callable[[bytes], None],
        on_closed: Callable[[], None],
        on_sent: Callable[[], None] | None = None,
        lines: Lines | None = None,
    ) -> None:
        connection.setblocking(False)
        self.received: deque[socket.socket] = deque()
        self._loop = loop
        self._socket = connection
        self._on_line = on_line
        self._on_closed = on_closed
        self._on_sent = on_sent
        self._lines: Lines = LineBuffer(MAX_LINE) if lines is None else lines
        self._unsent: deque[tuple[bytes | memoryview, Sequence[socket.socket]]] = deque()
        self._watch = loop.watch(connection, self._readable, self._writable)

    @property
    def all_sent(self) -> bool:
        return not self._unsent

    def send(self, line: bytes, passed: Sequence[socket.socket] = ()) -> None:
        """Send at once what the socket takes, the rest when it can. What is `passed` is ours no more:
        it is closed here when the other side has it, or never can."""
        if self._watch.events == FORGOTTEN:
            _close_all(passed)
            return
        self._unsent.append((line, passed))
        if self._watch.events == READ and len(self._unsent) == 1:
            self._writable()

    def receive_rest(self) -> None:
        """Hear what has already arrived, now that the other side has ended."""
        while self._watch.events != FORGOTTEN and self._receive():
            pass

    def close(self) -> None:
        """Unregister and close; nothing is called any more. A second time does nothing."""
        if self._watch.events == FORGOTTEN:
            return
        self._watch.forget()
        self._socket.close()
        # Whom they belong to holds us: without this both would wait for the collector of cycles.
        self._on_line, self._on_closed, self._on_sent = _nobody, _nobody, None
        _close_all(self.received)
        while self._unsent:
            _close_all(self._unsent.popleft()[1])

    def _readable(self) -> None:
        self._receive()

    def _receive(self) -> bool:
        """Take one piece of what has arrived; False if nothing has."""
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(RECEIVE_SIZE, _ANCILLARY_SIZE)
        except BlockingIOError:
            return False
        except OSError:
            data, ancillary, flags = b"", [], 0
        for _, _, numbers in ancillary:
            self.received.extend(
                socket.socket(fileno=number) for number in memoryview(numbers).cast("i")
            )
        # Of sockets that found no descriptor here nobody could tell to which line they belong.
        if not data or flags & socket.MSG_CTRUNC:
            self._end()
            return True
        self._lines.feed(data)
        try:
            while self._watch.events != FORGOTTEN and (line := self._lines.next_line()) is not None:
                self._on_line(bytes(line))
        except LineTooLong:
            self._end()
        return True

    def _writable(self) -> None:
        try:
            while self._unsent:
                data, passed = self._unsent[0]
                if passed:
                    sent = socket.send_fds(self._socket, [data], [each.fileno() for each in passed])
                    _close_all(passed)
                else:
                    sent = self._socket.send(data)
                if sent < len(data):
                    self._unsent[0] = memoryview(data)[sent:], ()
                else:
                    self._unsent.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                self._watch.want(write=False)
                self._loop.after(PASS_AGAIN, self._pass_again)
            else:
                self._end()
            return
        if self._unsent:
            self._watch.want(write=True)
            return
        self._watch.want(write=False)
        if self._on_sent is not None:
            self._on_sent()

    def _pass_again(self) -> None:
        if self._watch.events != FORGOTTEN:
            self._writable()

    def _end(self) -> None:
        on_closed = self._on_closed
        self.close()
        on_closed()


def _nobody(line: bytes = b"") -> None:
    """Who is told what comes after the end."""


_ANCILLARY_SIZE = socket.CMSG_SPACE(SCM_MAX_FD * 4)  # a descriptor is an int


def _close_all(sockets: Sequence[socket.socket] | deque[socket.socket]) -> None:
    for each in sockets:
        each.close()
