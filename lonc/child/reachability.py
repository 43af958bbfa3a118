"""Whether the host can be reached: what attempts and connections say about it, and when to try again.

    an attempt fails            costs a retry, unless the host is known to live; the next is made after a
                                delay, which grows
    a connection succeeds       ends the wait for a retry
      and is lost within        counts as a failed attempt, if it has brought no reply
      PROVEN_AFTER seconds
      and lasts, or replies     restores the retries, and the first delay
    no retries remain           the host is DEAD, until an attempt succeeds

Connections prove that the host is alive, until an attempt fails during which none of them has received
anything. They are silent then, until one of them receives a reply or an attempt succeeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Generic, Protocol, TypeVar

from lonc.runtime.backoff import Backoff
from lonc.runtime.containers import Queue

PROVEN_AFTER = 1.0  # seconds; a connection that lasts so long after its dialogue is a success
ASKED_RETRY = 5.0  # seconds from one attempt to another that a request for a DEAD host causes
LOOK_AGAIN = 1.0  # seconds between looks whether silent connections have received anything


class HostState(Enum):
    """The state of the host, in the words of the status report."""

    CONNECTING = "connecting"
    READY = "ready"
    DEAD = "DEAD"
    DISABLED = "disabled"
    DRAINING = "draining"


class Alarm(Protocol):
    """Calls back at the earliest time for which it was set, or before."""

    def ring_by(self, when: float) -> None: ...


class Clock(Protocol):
    """The event loop, as the pool needs it; `now` is the time of this turn, in seconds."""

    now: float

    def alarm(self, callback: Callable[[], None]) -> Alarm: ...


class Contact(Protocol):
    """A connection to the host, or an attempt to make one."""

    replied: bool  # at least one reply has arrived
    heard: bool  # lond has said something in the dialogue

    def heard_since(self, when: float) -> bool: ...


C = TypeVar("C", bound=Contact)


class Reachability(Generic[C]):
    """The attempts and connections of a host, and what they say about it.

    `retries` is the number of failed attempts in a row that make the host DEAD; `backoff` gives the
    delays before retries; `alarm` is set for the times at which `retry_due` or `settle` find something.
    """

    __slots__ = (
        "_alarm",
        "_backoff",
        "_clock",
        "_last_attempt",
        "_retries",
        "_retry_at",
        "_unproven",
        "attempting",
        "established",
        "retries_remaining",
        "silent",
    )

    def __init__(self, clock: Clock, alarm: Alarm, retries: int, backoff: Backoff) -> None:
        self._clock = clock
        self._alarm = alarm
        self._retries = self.retries_remaining = retries
        self._backoff = backoff
        self._last_attempt = -math.inf  # when it began
        self._retry_at = math.inf  # finite only between a failure and the next attempt or success
        self._unproven: Queue[C] = Queue()  # established for less than PROVEN_AFTER
        self.attempting: dict[C, float] = {}  # when each attempt has begun
        self.established: set[C] = set()
        self.silent = False  # the connections do not prove that the host is alive

    @property
    def alive(self) -> bool:
        """Whether a connection proves that the host is alive."""
        return bool(self.established) and not self.silent

    @property
    def state(self) -> HostState:
        """READY, DEAD or CONNECTING."""
        if self.alive:
            return HostState.READY
        if self.retries_remaining == 0:
            return HostState.DEAD
        if self.attempting or self.retries_remaining < self._retries:
            return HostState.CONNECTING
        return HostState.READY

    # What has happened.

    def attempt_begins(self, connection: C) -> None:
        """An attempt is about to begin."""
        self.attempting[connection] = self._last_attempt = self._clock.now

    def attempt_succeeds(self, connection: C) -> None:
        """The dialogue has ended: the connection is established."""
        del self.attempting[connection]
        self.established.add(connection)
        self.silent = False
        self._retry_at = math.inf
        now = self._clock.now
        self._unproven.enqueue(connection, now)
        self._alarm.ring_by(now + PROVEN_AFTER)

    def connection_lost(self, connection: C) -> bool:
        """A connection or an attempt has ended by itself. Whether that counts as a failed attempt."""
        self.established.discard(connection)
        begun = self.attempting.pop(connection, None)
        failed = begun is not None
        if begun is not None and not connection.heard and self.established:
            self.silent = not any(each.heard_since(begun) for each in self.established)
        if not self.established:
            self.silent = False
        if self._unproven.remove(connection):
            if connection.replied:
                self._proven()
            else:
                failed = True
        if failed and not self.alive:
            self.retries_remaining = max(0, self.retries_remaining - 1)
        return failed

    def connection_closed(self, connection: C) -> None:
        """The pool closes a connection that is idle; that is no failure."""
        self.established.remove(connection)
        if self._unproven.remove(connection):
            self._proven()

    def connection_stale(self, connection: C) -> None:
        """A connection is about to be closed, and it has not proven that the host is alive."""
        self._unproven.remove(connection)

    def silence_ends(self) -> None:
        """A reply has arrived on a silent connection: the host is alive, and was."""
        self.silent = False
        self._retry_at = math.inf
        self._proven()

    def settle(self) -> bool:
        """Find the connections that have lasted. Whether retries were restored."""
        before = self.retries_remaining
        for _ in self._unproven.pop_due(PROVEN_AFTER, self._clock.now):
            self._proven()
        self._alarm.ring_by(self._unproven.due(PROVEN_AFTER))
        return self.retries_remaining != before

    def reset(self) -> None:
        """Forget past failures."""
        self.retries_remaining = self._retries
        self._retry_at = math.inf
        self._backoff.reset()

    def _proven(self) -> None:
        self._backoff.reset()
        self.retries_remaining = self._retries

    # When to try again.

    @property
    def retry_is_set(self) -> bool:
        """Whether an attempt has failed, and the delay before the next is not over."""
        return self._retry_at < math.inf

    def set_retry(self) -> None:
        """Set the time of the next attempt, unless it is set."""
        if self._retry_at == math.inf:
            self._retry_at = self._clock.now + self._backoff.next_delay()
            self._alarm.ring_by(self._retry_at)

    def cancel_retry(self) -> None:
        """No attempt may be made."""
        self._retry_at = math.inf

    def retry_due(self) -> bool:
        """Whether the delay is over; after that it is not set any more."""
        if self._retry_at <= self._clock.now:
            self._retry_at = math.inf
            return True
        self._alarm.ring_by(self._retry_at)
        return False

    @property
    def may_probe(self) -> bool:
        """Whether the connections prove nothing, and no attempt is under way."""
        return self.silent and not self.attempting

    @property
    def asked_retry_due(self) -> bool:
        """Whether the last attempt is long enough ago for one that a request causes."""
        return self._last_attempt + ASKED_RETRY <= self._clock.now

    def probe_due(self, waits_since: float, silence: float) -> bool:
        """Whether to attempt a probe for a transaction that waits since then: it has waited, and all
        connections have been silent, for `silence` seconds. Sets the alarm for the next time to ask."""
        now = self._clock.now
        if waits_since + silence > now:
            self._alarm.ring_by(waits_since + silence)
            return False
        self._alarm.ring_by(now + LOOK_AGAIN)
        return (
            not self.attempting
            and self._retry_at == math.inf
            and self._last_attempt + silence <= now
            and not any(each.heard_since(now - silence) for each in self.established)
        )
