"""Lines out of bytes that come in pieces, none longer than a limit.

A line carries its newline, here and everywhere in lonc: what came in is what goes out, uncopied. So one
that came in several pieces may be a bytearray: its own, and as good as bytes for who does not change it.
"""

from __future__ import annotations

Line = bytes | bytearray


class LineTooLong(Exception):
    """A line is longer than its limit, whether its newline has arrived or not."""


class LineBuffer:
    """Holds what has arrived and is not yet taken; `limit` is in bytes, without the newline.

    `rest` is empty when nothing is held.
    """

    __slots__ = ("_limit", "_searched", "_start", "rest")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.rest: Line = b""
        self._start = 0  # what lies before has been taken
        self._searched = 0  # no newline from _start up to here

    def __len__(self) -> int:
        """How many bytes are held."""
        return len(self.rest) - self._start

    def held(self) -> bytes:
        """All that is held."""
        return bytes(memoryview(self.rest)[self._start :])

    def feed(self, data: bytes) -> None:
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
        """The next whole line with its newline, or None until more is fed; `more` is fed first.

        Raises LineTooLong for as long as the line in front passes the limit; what lies behind such a
        line is out of reach.
        """
        if more:
            # One line and nothing else is what nearly always comes.
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
