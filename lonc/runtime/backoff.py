"""The growing delays between attempts at what keeps failing."""

from __future__ import annotations

from random import Random


class Backoff:
    """Delays in seconds: `at_once` of them 0, then `first`, doubling up to `longest`.

    Each is shortened at random by up to a quarter, so that what failed together does not come back
    together.
    """

    def __init__(self, first: float, longest: float, random: Random, at_once: int = 0) -> None:
        self._first = first
        self._longest = longest
        self._random = random
        self._at_once = at_once
        self.reset()

    def reset(self) -> None:
        """All is well again: the next delay is the first."""
        self._left_at_once = self._at_once
        self._next = min(self._first, self._longest)

    def next_delay(self) -> float:
        if self._left_at_once:
            self._left_at_once -= 1
            return 0.0
        delay = self._next
        self._next = min(delay * 2, self._longest)
        return delay * (1 - self._random.random() / 4)
