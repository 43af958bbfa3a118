"""Passes lines, and sockets with them, between two processes over a UNIX stream socket.

The end of the stream reports that the other process has ended.
"""

from __future__ import annotations

import array  # noqa: F401 (socket.send_fds imports it; later the user may not be able to)
import errno
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from lonc.runtime.event_loop import FORGOTTEN, READ, EventLoop
from lonc.runtime.line_buffer import RECEIVE_SIZE, LineBuffer, LineTooLong

MAX_LINE = 1 << 20  # bytes; a status report of one host has a few hundred
SCM_MAX_FD = 253  # sockets in one message, by Linux
PASS_AGAIN = 0.01  # seconds until the next try after ETOOMANYREFS: too many sockets in flight


class Lines(Protocol):
    """Makes lines of received bytes: a LineBuffer, or a wrapper of one."""

    def feed(self, data: bytes) -> None: ...
    def next_line(self) -> bytes | bytearray | None: ...


class Channel:
    """One end of the stream socket `connection`, which it owns.

    - `on_line(line)`: a line with its newline has arrived;
    - `on_closed()`: the other side has closed, or the socket has failed; not called after `close`;
    - `on_sent()`: all lines have been handed to the socket.

    Sockets that were passed are in `received`, in order, no later than `on_line` is called for their
    line. The caller that takes one out owns it.
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
        """Whether the socket has taken all lines."""
        return not self._unsent

    def send(self, line: bytes, passed: Sequence[socket.socket] = ()) -> None:
        """Send at once what the socket takes, and the rest when it is writable.

        The sockets in `passed` belong to the channel from now on: it closes them once they are sent, or
        cannot be. After the end nothing is sent.
        """
        if self._watch.events == FORGOTTEN:
            _close_all(passed)
            return
        self._unsent.append((line, passed))
        if self._watch.events == READ and len(self._unsent) == 1:
            self._writable()

    def receive_rest(self) -> None:
        """Process at once all that has arrived, up to the end of the stream if that has come."""
        while self._watch.events != FORGOTTEN and self._receive():
            pass

    def close(self) -> None:
        """Unregister and close; no callback is called any more. Idempotent."""
        if self._watch.events == FORGOTTEN:
            return
        self._watch.forget()
        self._socket.close()
        # The callbacks' owner refers to this channel: break the cycle, so that both are freed at once.
        self._on_line, self._on_closed, self._on_sent = _ignore, _ignore, None
        _close_all(self.received)
        while self._unsent:
            _close_all(self._unsent.popleft()[1])

    def _readable(self) -> None:
        self._receive()

    def _receive(self) -> bool:
        """Read once and process it; False if nothing has arrived."""
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
        # MSG_CTRUNC: some sockets found no descriptor here, so sockets no longer match their lines.
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


def _ignore(line: bytes = b"") -> None:
    """The callback after the end."""


_ANCILLARY_SIZE = socket.CMSG_SPACE(SCM_MAX_FD * 4)  # a descriptor is an int


def _close_all(sockets: Sequence[socket.socket] | deque[socket.socket]) -> None:
    for each in sockets:
        each.close()
