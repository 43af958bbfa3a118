"""Lines over a stream socket, both ways, through the loop: between parent and child, above all.

The end of the stream is the other side's end: it is the life line too.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from lonc.errors import LineTooLong
from lonc.event_loop import FORGOTTEN, READ, EventLoop
from lonc.line_buffer import LineBuffer

RECEIVE_SIZE = 65536
MAX_LINE = 1 << 20  # a status report of one host has a few hundred bytes


class Channel:
    """One end. Callbacks: `on_line(line)` with its newline; `on_closed()`, once, unless `close` was
    called here first."""

    __slots__ = ("_lines", "_on_closed", "_on_line", "_socket", "_unsent", "_watch")

    def __init__(
        self,
        loop: EventLoop,
        connection: socket.socket,
        on_line: Callable[[bytes], None],
        on_closed: Callable[[], None],
        max_line: int = MAX_LINE,
    ) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._on_line = on_line
        self._on_closed = on_closed
        self._lines = LineBuffer(max_line)
        self._unsent = bytearray()
        self._watch = loop.watch(connection, self._readable, self._writable)

    def send(self, line: bytes) -> None:
        """Send at once what the socket takes, the rest when it can."""
        self._unsent += line
        if self._watch.events == READ:
            self._writable()

    def close(self) -> None:
        """Unregister and close; nothing is called any more. A second time does nothing."""
        if self._watch.events != FORGOTTEN:
            self._watch.forget()
            self._socket.close()

    def close_inherited(self) -> None:
        """Close the descriptor only: in a forked child, whose parent still watches the same socket."""
        self._socket.close()

    def _readable(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._lines.feed(data)
        try:
            while self._watch.events != FORGOTTEN and (line := self._lines.next_line()) is not None:
                self._on_line(line)
        except LineTooLong:
            self._end()

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end()
            return
        del self._unsent[:sent]
        self._watch.want(write=bool(self._unsent))

    def _end(self) -> None:
        self.close()
        self._on_closed()
