"""How many bytes a child holds for its host, and who must go when there are too many.

Nobody counts each byte. Who holds more than before says so, when it is more than a piece that comes and
goes at once; after a while of that we look at everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

LOOK_EVERY = 16 << 20  # bytes held more, at most, until we look


class Holder(Protocol):
    @property
    def held(self) -> int: ...

    def let_go(self, why: str) -> None: ...


class MemoryLimit:
    """`holders()` are all who may hold something; while that is more than `most` bytes together, who
    holds most is let go. `on_full(why)` is called then."""

    def __init__(
        self, most: int, holders: Callable[[], Iterable[Holder]], on_full: Callable[[str], None]
    ) -> None:
        self._most = most
        self._holders = holders
        self._on_full = on_full
        self._look_every = min(LOOK_EVERY, most // 8)
        self._grown = 0  # since we looked

    def grew(self, count: int) -> None:
        """So many more bytes are held."""
        self._grown += count
        if self._grown > self._look_every:
            self._grown = 0
            self._look()

    def _look(self) -> None:
        """(To let one go may free what others hold, too; so we count anew.)"""
        why = f"more than {self._most} bytes are held: who holds most is let go"
        while sum(holder.held for holder in self._holders()) > self._most:
            largest = max(self._holders(), key=lambda holder: holder.held)
            self._on_full(why)
            largest.let_go(why)
