"""Delays between attempts, which grow while the attempts fail; knows no clock."""

from __future__ import annotations

from random import Random


class Backoff:
    """Delays in seconds: 0 `at_once` times, then `first`, doubled each time up to `longest`.

    Each is shortened by a random share of up to a quarter, so that many that failed together are not
    retried together.
    """

    def __init__(self, first: float, longest: float, random: Random, at_once: int = 0) -> None:
        self._first = first
        self._longest = longest
        self._random = random
        self._at_once = at_once
        self.reset()

    def reset(self) -> None:
        """After a success: begin again with the first delay."""
        self._left_at_once = self._at_once
        self._next = min(self._first, self._longest)

    def next_delay(self) -> float:
        """After a failure: seconds to wait before the next attempt."""
        if self._left_at_once:
            self._left_at_once -= 1
            return 0.0
        delay = self._next
        self._next = min(delay * 2, self._longest)
        return delay * (1 - self._random.random() / 4)
