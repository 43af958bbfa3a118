"""Restarts the children of many hosts, a few at a time, so that the machine is not overloaded by it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from lonc.parent.supervisor import Supervisor
from lonc.runtime.event_loop import EventLoop

MAX_PARALLEL = 16  # hosts
# More are started when so few are under way: children forked in a row share more of their parent's
# memory, and the parent copies less of it.
REFILL_AT = 4

SLOW_AFTER = 1.0  # seconds; hosts that take longer no longer delay the others


class RollingRestart:
    """Callbacks: `on_failed(why)` for each child that fails to start; at the end, once, `on_done()`."""

    def __init__(
        self, loop: EventLoop, on_failed: Callable[[str], None], on_done: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._waiting: deque[Supervisor] = deque()
        self._under_way = 0
        self._batches = 0  # that were started
        self._refill_at = REFILL_AT
        self._on_failed = on_failed
        self._on_done = on_done

    def begin(self, supervisors: Iterable[Supervisor]) -> None:
        self._waiting.extend(supervisors)
        self._start_batch()

    def cancel(self) -> None:
        """Start no other host, and call nothing back."""
        self._waiting.clear()
        self._on_failed = _ignore_failure
        self._on_done = _ignore_end

    def _start_batch(self) -> None:
        self._batches += 1
        self._loop.after(SLOW_AFTER, partial(self._batch_is_slow, self._batches))
        while self._waiting and self._under_way < MAX_PARALLEL:
            self._under_way += 1
            self._waiting.popleft().restart(self._restarted)
        if self._under_way == 0:
            self._on_done()

    def _restarted(self, why_not: str | None) -> None:
        self._under_way -= 1
        if why_not is not None:
            self._on_failed(why_not)
        if self._under_way <= self._refill_at:
            self._start_batch()

    def _batch_is_slow(self, batch: int) -> None:
        """Callback: some children hang. From now on each that is done is followed by another."""
        if batch == self._batches and self._waiting:
            self._refill_at = MAX_PARALLEL - 1
            self._start_batch()


def _ignore_failure(_: str) -> None:
    """Of a host, after the restart was cancelled."""


def _ignore_end() -> None:
    """Of the restart, after it was cancelled."""
