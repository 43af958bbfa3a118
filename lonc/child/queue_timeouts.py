"""Reports requests that ended by the queue timeout, with the state of the pool: once a minute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from lonc.log import REPEAT_AFTER


class Clock(Protocol):
    """The event loop, as QueueTimeouts needs it."""

    def after(self, seconds: float, callback: Callable[[], None]) -> object: ...


class Pool(Protocol):
    """The pool's figures."""

    @property
    def busy(self) -> int: ...
    @property
    def attempting(self) -> int: ...
    @property
    def oldest_in_flight(self) -> float: ...


class QueueTimeouts:
    """Counts the requests, and calls `record_error(sentence)`: at once, and then once in REPEAT_AFTER
    seconds for all that have ended meanwhile.

    `timeout` (seconds) and `max_connections` are the settings that the sentence names.
    """

    def __init__(
        self,
        clock: Clock,
        pool: Pool,
        timeout: float,
        max_connections: int,
        record_error: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._pool = pool
        self._timeout = timeout
        self._max_connections = max_connections
        self._record_error = record_error
        self._unreported = 0
        self._reported_lately = False

    def add(self, count: int) -> None:
        """So many requests have ended now."""
        self._unreported += count
        if not self._reported_lately:
            self._report()

    def _report(self) -> None:
        """Callback too: REPEAT_AFTER has passed since the last report."""
        count, self._unreported = self._unreported, 0
        self._reported_lately = count > 0
        if not count:
            return
        self._clock.after(REPEAT_AFTER, self._report)
        requests = "1 request" if count == 1 else f"{count} requests"
        self._record_error(
            f"no connection was free within {self._timeout:g} s for {requests}: {self._state()}"
        )

    def _state(self) -> str:
        pool, limit = self._pool, self._max_connections
        state = f"{pool.busy} of {limit} connection{'' if limit == 1 else 's'}"
        state += f" wait{'s' if pool.busy == 1 else ''} for a reply"
        if pool.busy:
            state += f", the oldest for {pool.oldest_in_flight:.0f} s"
        if pool.attempting:
            state += f"; attempts to connect under way: {pool.attempting}"
        return state
