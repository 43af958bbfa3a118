"""Records a host's changes of state and its errors: in the log, and for the status report."""

from __future__ import annotations

import logging
from collections import deque
from datetime import datetime

from lonc.child.reachability import HostState
from lonc.escape import escaped
from lonc.log import REPEAT_AFTER, RateLimitedLog, logger
from lonc.runtime.event_loop import Deadline, EventLoop

MAX_CHANGES = 20  # that are kept for the status report

# CRITICAL is the word of the original for a DEAD host; loncron counts it. The parent has already logged
# why its children drain.
_LEVELS = {HostState.DEAD: logging.CRITICAL, HostState.DRAINING: logging.DEBUG}

_UNWANTED = {HostState.CONNECTING, HostState.DEAD}  # no operator has asked for these states


def wall_clock() -> str:
    """The present time in ISO 8601, with its zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


class History:
    """The last MAX_CHANGES `changes` and the `last_error` of one host.

    A change is (time, state, cause or None), an error (time, sentence); causes and sentences are
    escaped. `version` differs whenever one of them does.
    """

    def __init__(self, loop: EventLoop, state: HostState) -> None:
        self.changes: deque[tuple[str, str, str | None]] = deque(maxlen=MAX_CHANGES)
        self.changes.append((wall_clock(), state.value, None))
        self.last_error: tuple[str, str] | None = None
        self.version = 0
        self._state = state
        self._loop = loop
        self._rate_limited = RateLimitedLog(loop)
        self._unreachable = False  # it has been DEAD, and no connection has succeeded since
        self._failed_attempts = 0  # while unreachable, and not logged yet
        self._log_failures_at: Deadline | None = None

    def record_state(self, state: HostState, why: str | None) -> bool:
        """Record the host's present state and `why`, a cause worth reporting, if there is one.

        A change is logged. A cause without a change is an error, unless the child is draining.
        Returns whether the state has changed.
        """
        why = None if why is None else escaped(why)
        if state is self._state:
            if why is not None and state is not HostState.DRAINING:
                self._record_failure(why)
            return False
        self._state = state
        self.version += 1
        at = wall_clock()
        self.changes.append((at, state.value, why))
        still_unreachable = self._unreachable and state in _UNWANTED
        level = logging.DEBUG if still_unreachable else _LEVELS.get(state, logging.INFO)
        logger.log(level, "%s", state.value + (f": {why}" if why else ""))
        if still_unreachable:
            if why is not None:
                self._count_failure(why)
            return True
        if state in (HostState.READY, HostState.DISABLED):
            self._end_unreachable()
        elif state is HostState.DEAD:
            self._begin_unreachable()
        if why is not None:
            self._rate_limited.mark_logged(why)
            if state in _UNWANTED:
                self.last_error = at, why
        return True

    def record_error(self, why: str) -> None:
        """Record an error; the same sentence is logged once a minute."""
        why = escaped(why)
        self.version += 1
        self.last_error = wall_clock(), why
        self._rate_limited.warn(why)

    def record_attempt_error(self, why: str) -> None:
        """Record an error with which an attempt to connect goes on: it is one of a failure that is
        counted anyway, if the host is unreachable."""
        if not self._unreachable:
            self.record_error(why)

    def _record_failure(self, why: str) -> None:
        if self._unreachable:
            self._count_failure(why)
        else:
            self.record_error(why)

    def _count_failure(self, why: str) -> None:
        why = escaped(why)
        self.version += 1
        self.last_error = wall_clock(), why
        self._failed_attempts += 1
        self._log_failures_later()

    def _begin_unreachable(self) -> None:
        self._unreachable = True
        self._log_failures_later()

    def _end_unreachable(self) -> None:
        self._unreachable = False
        self._failed_attempts = 0
        if self._log_failures_at is not None:
            self._log_failures_at.cancel()
            self._log_failures_at = None

    def _log_failures_later(self) -> None:
        if self._log_failures_at is None:
            self._log_failures_at = self._loop.after(REPEAT_AFTER, self._log_failures)

    def _log_failures(self) -> None:
        """Callback, REPEAT_AFTER after the last line about it."""
        self._log_failures_at = None
        count, self._failed_attempts = self._failed_attempts, 0
        if count and self.last_error is not None:
            times = "once" if count == 1 else f"{count} times"
            logger.info("still DEAD, tried %s in %.0f s: %s", times, REPEAT_AFTER, self.last_error[1])
            self._log_failures_later()
