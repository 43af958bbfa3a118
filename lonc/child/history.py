"""What has happened to a host: told to the log as it comes, and the last of it to whoever asks."""

from __future__ import annotations

import logging
from collections import deque
from datetime import datetime

from lonc.child.pool import HostState
from lonc.log import RateLimitedLog, logger
from lonc.runtime.event_loop import EventLoop

REMEMBERED = 20  # changes of state

# The parent has told already why its children drain.
_LEVELS = {HostState.DEAD: logging.WARNING, HostState.DRAINING: logging.DEBUG}

_TROUBLE = {HostState.CONNECTING, HostState.DEAD}  # states that nobody has asked for


def wall_clock() -> str:
    """The time of day, ISO 8601."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


class History:
    """`changes` are the last ones, each a time, a state and the cause if one is known; `last_error` is a
    time and a sentence."""

    def __init__(self, loop: EventLoop, state: HostState) -> None:
        self.changes: deque[tuple[str, str, str | None]] = deque(maxlen=REMEMBERED)
        self.changes.append((wall_clock(), state.value, None))
        self.last_error: tuple[str, str] | None = None
        self.version = 0  # how often anything here has changed
        self._state = state
        self._complaints = RateLimitedLog(loop)

    def heard(self, state: HostState, why: str | None) -> bool:
        """The host is in that state now; `why` is what has just happened, if it is worth telling.

        Every change of state is a line of the log, other trouble is told once a minute. Returns whether
        this was a change.
        """
        if state is self._state:
            if why is not None and state is not HostState.DRAINING:
                self.trouble(why)
            return False
        self._state = state
        self.version += 1
        at = wall_clock()
        self.changes.append((at, state.value, why))
        told = state.value if why is None else f"{state.value}: {why}"
        logger.log(_LEVELS.get(state, logging.INFO), "%s", told)
        if why is not None:
            self._complaints.mark_logged(why)
            if state in _TROUBLE:
                self.last_error = at, why
        return True

    def trouble(self, why: str) -> None:
        """Something is wrong, whatever the state."""
        self.version += 1
        self.last_error = wall_clock(), why
        self._complaints.warn(why)
