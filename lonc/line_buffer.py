"""Lines out of bytes that come in pieces, none longer than a limit.

A line carries its newline, here and everywhere in lonc: what came in is what goes out, uncopied.
"""

from __future__ import annotations

from lonc.errors import LineTooLong


class LineBuffer:
    """Holds what has arrived and is not yet taken; `limit` is in bytes, without the newline."""

    __slots__ = ("_data", "_limit", "_searched", "_start")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data: bytes | bytearray = b""
        self._start = 0  # what lies before has been taken
        self._searched = 0  # no newline from _start up to here

    def __len__(self) -> int:
        """How many bytes are held."""
        return len(self._data) - self._start

    def feed(self, data: bytes) -> None:
        if not self._data:
            self._data = data
            return
        if not isinstance(self._data, bytearray):
            self._data = bytearray(memoryview(self._data)[self._start :])
            self._searched -= self._start
            self._start = 0
        self._data += data

    def next_line(self) -> bytes | None:
        """The next whole line with its newline, or None until more is fed.

        Raises LineTooLong for as long as the line in front passes the limit; what lies behind such a
        line is out of reach.
        """
        data = self._data
        size = len(data)
        end = data.find(b"\n", self._searched) + 1
        if not end:
            self._searched = size
            if size - self._start > self._limit:
                raise LineTooLong(f"a line of more than {self._limit} bytes")
            return None
        if end - self._start - 1 > self._limit:
            raise LineTooLong(f"a line of more than {self._limit} bytes")
        start = self._start
        if end < size:
            self._start = self._searched = end
            return bytes(data[start:end])
        self._data = b""
        self._start = self._searched = 0
        return bytes(data[start:] if start else data)
