"""Limits the bytes that a child holds for its host, of requests and replies.

Accounting is sampled: holders report growth; after SAMPLE_EVERY bytes of growth all holders are summed,
and while the sum exceeds the limit the largest is disconnected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

SAMPLE_EVERY = 16 << 20  # bytes of growth between two sums, at most


class Holder(Protocol):
    """A client or a connection to lond."""

    @property
    def held(self) -> int:
        """Bytes in memory because of it."""

    def close(self, why: str, /) -> None: ...


class MemoryLimit:
    """Keeps the sum of all holders at `limit` bytes, give or take what grows between two samples.

    `holders()` returns them all. Callback: `on_exceeded(why)`, before each disconnection.
    """

    def __init__(
        self, limit: int, holders: Callable[[], Iterable[Holder]], on_exceeded: Callable[[str], None]
    ) -> None:
        self._limit = limit
        self._holders = holders
        self._on_exceeded = on_exceeded
        self._sample_every = min(SAMPLE_EVERY, limit // 8)
        self._growth = 0  # bytes reported since the last sum

    def report_growth(self, count: int) -> None:
        """`count` more bytes are held. Only data that stays after the callback that read it is
        reported."""
        self._growth += count
        if self._growth > self._sample_every:
            self._growth = 0
            self._enforce()

    def _enforce(self) -> None:
        """Disconnect the largest holders. One that goes may free bytes of others, so each time anew."""
        why = f"more than {self._limit} bytes are held: the largest holder is disconnected"
        while sum(holder.held for holder in self._holders()) > self._limit:
            largest = max(self._holders(), key=lambda holder: holder.held)
            self._on_exceeded(why)
            largest.close(why)
