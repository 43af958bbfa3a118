"""Passes lines, and sockets with them, between two processes over a UNIX stream socket.

The end of the stream reports that the other process has ended. Nothing that the other process sends
raises an exception here: the channel ends, and `fault` says why.
"""

from __future__ import annotations

import array  # noqa: F401 (socket.send_fds imports it; later the user may not be able to)
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from lonc.runtime.event_loop import FORGOTTEN, READ, EventLoop
from lonc.runtime.line_buffer import RECEIVE_SIZE, LineBuffer, LineTooLong

MAX_LINE = 1 << 20  # bytes; a status report of one host has a few hundred
SCM_MAX_FD = 253  # sockets in one message, by Linux
MAX_REST = 64  # reads of `receive_rest`: more than a socket's buffer holds
PASS_AGAIN = 0.01  # seconds until the next try after ETOOMANYREFS: too many sockets in flight


class Lines(Protocol):
    """Makes lines of received bytes: a LineBuffer, or a wrapper of one."""

    def feed(self, data: bytes) -> None: ...
    def next_line(self) -> bytes | bytearray | None: ...


class Channel:
    """One end of the stream socket `connection`, which it owns.

    - `on_line(line)`: a line with its newline has arrived;
    - `on_closed()`: the other side has closed or broken a rule, or the socket has failed; not called
      after `close`;
    - `on_sent()`: all lines have been handed to the socket.

    UNIX stream sockets that were passed are in `received`, in order, no later than `on_line` is called
    for their line. The caller that takes one out owns it. When the lines that have arrived are
    processed, at most `max_sockets` may be left there. More of them, or a descriptor of another kind, is
    a fault.

    `fault` is None, or the rule that the other side has broken, as a sentence that begins with "it".
    """

    __slots__ = (
        "_lines",
        "_loop",
        "_max_sockets",
        "_on_closed",
        "_on_line",
        "_on_sent",
        "_socket",
        "_unsent",
        "_watch",
        "fault",
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
        max_sockets: int = 0,
    ) -> None:
        connection.setblocking(False)
        self.fault: str | None = None
        self._max_sockets = max_sockets
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
        """Process at once all that has arrived, up to the end of the stream if that has come.

        Bounded: a process that still has the other end could write without end.
        """
        for _ in range(MAX_REST):
            if self._watch.events == FORGOTTEN or not self._receive():
                break

    def fail(self, fault: str) -> None:
        """End the channel because of what the other side has sent; calls `on_closed`."""
        if self._watch.events != FORGOTTEN:
            self.fault = fault
            self._end()

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
            data, ancillary, flags, _ = self._socket.recvmsg(
                RECEIVE_SIZE, _ANCILLARY_SIZE if self._max_sockets else 0, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            data, ancillary, flags = b"", [], 0
        if not self._take_sockets(ancillary):
            self.fail("it passed a descriptor that is no UNIX stream socket")
        elif flags & socket.MSG_CTRUNC and not self._max_sockets:
            self.fail("it passed a descriptor, and none was expected")
        elif not data or flags & socket.MSG_CTRUNC:
            # Some sockets found no descriptor here, so sockets no longer match their lines.
            self._end()
        else:
            self._process(data)
        return True

    def _process(self, data: bytes) -> None:
        self._lines.feed(data)
        try:
            while self._watch.events != FORGOTTEN and (line := self._lines.next_line()) is not None:
                self._on_line(bytes(line))
        except LineTooLong:
            self.fail("it sent a line that is too long")
        if len(self.received) > self._max_sockets:
            self.fail("it passed more sockets than were expected")

    def _take_sockets(self, ancillary: list[tuple[int, int, bytes]]) -> bool:
        """Put passed sockets into `received`, close other descriptors; False if there were others."""
        all_taken = True
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                for number in memoryview(data).cast("i"):
                    if (taken := _stream_socket(number)) is None:
                        all_taken = False
                    else:
                        self.received.append(taken)
        return all_taken

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


def _stream_socket(number: int) -> socket.socket | None:
    """The UNIX stream socket of that descriptor; any other descriptor is closed."""
    try:
        found = socket.socket(fileno=number)
    except OSError:  # it is no socket
        os.close(number)
        return None
    if (found.family, found.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        found.close()
        return None
    return found


def _close_all(sockets: Sequence[socket.socket] | deque[socket.socket]) -> None:
    for each in sockets:
        each.close()
