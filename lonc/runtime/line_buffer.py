"""Makes lines of received bytes, none longer than a limit; knows no socket.

A line includes its newline, here and everywhere in lonc, so that it is forwarded without a copy. For the
same reason a line that arrived in several pieces is a bytearray, which belongs to the caller.
"""

from __future__ import annotations

RECEIVE_SIZE = 65536  # bytes to take from a socket at once

Line = bytes | bytearray


class LineTooLong(Exception):
    """A line is longer than its limit, whether or not its newline has arrived."""


class LineBuffer:
    """Bytes that were fed and not yet taken as lines.

    - `limit`: the longest line, in bytes without the newline;
    - `rest`: empty if nothing is held, else it ends with what is held.
    """

    __slots__ = ("_limit", "_searched", "_start", "rest")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.rest: Line = b""
        self._start = 0  # in `rest`: bytes before it have been taken
        self._searched = 0  # in `rest`: there is no newline from _start to here

    def __len__(self) -> int:
        """The number of bytes held."""
        return len(self.rest) - self._start

    def held(self) -> bytes:
        """The bytes held."""
        return bytes(memoryview(self.rest)[self._start :])

    def feed(self, data: bytes) -> None:
        """Append received bytes."""
        if not self.rest:
            self.rest = data
            return
        if not isinstance(self.rest, bytearray):
            self.rest = bytearray(memoryview(self.rest)[self._start :])
        elif self._start:
            del self.rest[: self._start]
        self._searched -= self._start
        self._start = 0
        self.rest += data

    def next_line(self, more: bytes = b"") -> Line | None:
        """Feed `more`, then take the next line with its newline; None if its end has not arrived.

        Raises LineTooLong, now and at each further call, if the next line is longer than the limit.
        """
        if more:
            # Nearly always `more` is exactly one line.
            if not self.rest and more.find(b"\n") == len(more) - 1 <= self._limit:
                return more
            self.feed(more)
        data = self.rest
        start = self._start
        end = data.find(b"\n", self._searched) + 1
        if end:
            length = end - start - 1
        else:
            self._searched = len(data)
            length = len(data) - start
        if length > self._limit:
            raise LineTooLong(f"a line of more than {self._limit} bytes")
        if not end:
            return None
        line = data if length + 1 == len(data) else bytes(memoryview(data)[start:end])
        if end < len(data):
            self._start = self._searched = end
        else:
            self.rest = b""
            self._start = self._searched = 0
        return line
