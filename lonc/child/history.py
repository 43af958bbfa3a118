"""Records a host's changes of state and its errors: in the log, and for the status report."""

from __future__ import annotations

import logging
from collections import deque
from datetime import datetime

from lonc.child.reachability import HostState
from lonc.log import RateLimitedLog, logger
from lonc.runtime.event_loop import EventLoop

MAX_CHANGES = 20  # that are kept for the status report

# The parent has already logged why its children drain.
_LEVELS = {HostState.DEAD: logging.WARNING, HostState.DRAINING: logging.DEBUG}

_UNWANTED = {HostState.CONNECTING, HostState.DEAD}  # no operator has asked for these states


def wall_clock() -> str:
    """The present time in ISO 8601, with its zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


class History:
    """The last MAX_CHANGES `changes` and the `last_error` of one host.

    A change is (time, state, cause or None), an error (time, sentence). `version` differs whenever one
    of them does.
    """

    def __init__(self, loop: EventLoop, state: HostState) -> None:
        self.changes: deque[tuple[str, str, str | None]] = deque(maxlen=MAX_CHANGES)
        self.changes.append((wall_clock(), state.value, None))
        self.last_error: tuple[str, str] | None = None
        self.version = 0
        self._state = state
        self._rate_limited = RateLimitedLog(loop)

    def record_state(self, state: HostState, why: str | None) -> bool:
        """Record the host's present state and `why`, a cause worth reporting, if there is one.

        A change is logged. A cause without a change is an error, unless the child is draining.
        Returns whether the state has changed.
        """
        if state is self._state:
            if why is not None and state is not HostState.DRAINING:
                self.record_error(why)
            return False
        self._state = state
        self.version += 1
        at = wall_clock()
        self.changes.append((at, state.value, why))
        logger.log(_LEVELS.get(state, logging.INFO), "%s", state.value + (f": {why}" if why else ""))
        if why is not None:
            self._rate_limited.mark_logged(why)
            if state in _UNWANTED:
                self.last_error = at, why
        return True

    def record_error(self, why: str) -> None:
        """Record an error; the same sentence is logged once a minute."""
        self.version += 1
        self.last_error = wall_clock(), why
        self._rate_limited.warn(why)
