"""Counts the transactions of a host, their failures and their latencies.

Fixed memory: latencies go into histogram buckets (BOUNDS); slots of 5 s roll up into minutes and an
hour.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate
from operator import add, sub
from typing import Any

# Upper bounds of the buckets in seconds: ten per decade, each about a quarter above the last (the
# preferred numbers R10).
BOUNDS = tuple(
    float(f"{digits}e{power}")
    for power in range(-5, 3)
    for digits in (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)
)
REPORTED_BOUNDS = tuple(bound for bound in BOUNDS if f"{bound:e}"[:3] in ("1.0", "2.5", "5.0"))
_REPORTED_INDICES = [BOUNDS.index(bound) for bound in REPORTED_BOUNDS]
_NO_REPLIES = [0] * (len(BOUNDS) + 1)  # the last bucket: longer than every bound

SLOT = 5.0  # seconds; a transaction counts in "the last minute" for at most so much longer
SLOTS_A_MINUTE = 12
MINUTES = 60


class Reason(Enum):
    """Why a transaction failed, in the words of the status report."""

    DEAD = "host dead"
    DISABLED = "host disabled"
    UNREACHABLE = "no connection"  # the attempt to connect that it waited for failed
    QUEUE_TIMEOUT = "queue timeout"
    REQUEST_TIMEOUT = "request timeout"
    LOST = "connection lost"  # while the request was in flight
    OUT_OF_STEP = "out of step"  # lond has said a line unasked: replies came one request late
    STOPPED = "lonc stopped"


@dataclass
class Slot:
    """The transactions that ended within a period.

    `replies`: their number per bucket. `longest`: the longest latency, in seconds. `done`: the sum of
    `replies`, valid after `close`.
    """

    replies: list[int] = field(default_factory=_NO_REPLIES.copy)
    longest: float = 0.0
    failures: int = 0
    out_of_step: int = 0  # of the failures
    done: int = 0

    def close(self) -> Slot:
        """Compute `done`; returns the slot itself."""
        self.done = sum(self.replies)
        return self

    def add(self, other: Slot) -> None:
        self.replies = list(map(add, self.replies, other.replies))
        self.done += other.done
        self.longest = max(self.longest, other.longest)
        self.failures += other.failures
        self.out_of_step += other.out_of_step

    def percentile(self, share: float) -> float:
        """The latency that a `share` (0 to 1) of the replies did not exceed.

        It is the upper bound of a bucket, at most a quarter too long.
        """
        remaining = share * self.done
        for bound, count in zip(BOUNDS, self.replies, strict=False):
            remaining -= count
            if remaining <= 0:
                return min(bound, self.longest)
        return self.longest


_EMPTY = Slot(_NO_REPLIES)  # shared by all slots in which nothing ended; never modified


class _Window:
    """The last `slots` slots and their sum."""

    def __init__(self, slots: int) -> None:
        self.slots = deque([_EMPTY] * slots, maxlen=slots)
        self._replies = _NO_REPLIES.copy()
        self._done = 0

    def push(self, slot: Slot) -> bool:
        """Add a closed slot and drop the oldest. Returns whether the dropped one was not empty."""
        dropped = self.slots[0]
        self.slots.append(slot)
        if dropped is not _EMPTY:
            self._replies = list(map(sub, self._replies, dropped.replies))
        if slot is not _EMPTY:
            self._replies = list(map(add, self._replies, slot.replies))
        self._done += slot.done - dropped.done
        return dropped is not _EMPTY

    def empty(self) -> bool:
        return all(slot is _EMPTY for slot in self.slots)

    def sum(self) -> Slot:
        return Slot(
            self._replies.copy(),
            max(slot.longest for slot in self.slots),
            sum(slot.failures for slot in self.slots),
            sum(slot.out_of_step for slot in self.slots),
            self._done,
        )


def _times(slot: Slot) -> dict[str, float] | None:
    """Percentiles of the latency in seconds; None without replies."""
    if not slot.done:
        return None
    times = {f"p{share}": slot.percentile(share / 100) for share in (50, 90, 99)}
    return {name: round(seconds, 6) for name, seconds in (times | {"max": slot.longest}).items()}


def _cumulative(slot: Slot) -> list[int]:
    """For each of REPORTED_BOUNDS, the number of replies that took at most so long."""
    sums = list(accumulate(slot.replies))
    return [sums[number] for number in _REPORTED_INDICES]


class Statistics:
    """The statistics of one host since its child started. All times are seconds of the loop's clock."""

    def __init__(self, now: float) -> None:
        self.done = 0
        self.seconds = 0.0  # sum of the latencies of all replies
        self.sent = 0  # bytes of requests that got a reply
        self.received = 0  # bytes of these replies
        self.failed = 0
        self.reasons: dict[Reason, int] = {}
        self._all_time = Slot()
        self._slot = Slot()
        self._slot_ends_at = now + SLOT
        self._minute = _Window(SLOTS_A_MINUTE)
        self._this_minute = _EMPTY
        self._slots_of_this_minute = 0
        self._hour = _Window(MINUTES - 1)
        self._shifts = 0  # how often passing time alone has changed the sums of the last minutes

    def replied(self, now: float, since: float, sent: int, received: int) -> None:
        """Count a transaction with a reply.

        `since`: when the request arrived. `sent`, `received`: bytes of the request and of the reply.
        """
        if now >= self._slot_ends_at:  # repeated here: a call costs 0.7 % of a transaction
            self._close_slots(now)
        seconds = now - since
        slot = self._slot
        slot.replies[bisect_left(BOUNDS, seconds)] += 1
        if seconds > slot.longest:
            slot.longest = seconds
        self.done += 1
        self.seconds += seconds
        self.sent += sent
        self.received += received

    def failed_for(self, now: float, reason: Reason, count: int) -> None:
        """Count `count` transactions that failed for `reason`."""
        self._close_slots(now)
        self._slot.failures += count
        if reason is Reason.OUT_OF_STEP:
            self._slot.out_of_step += count
        self.failed += count
        self.reasons[reason] = self.reasons.get(reason, 0) + count

    def version(self, now: float) -> tuple[int, int, int]:
        """A value that differs whenever the report differs."""
        self._close_slots(now)
        return self.done, self.failed, self._shifts

    def report(self, now: float) -> dict[str, Any]:
        """All statistics, as the fields of `HostStatus`."""
        done, failed = self.by_minutes(now)
        return {
            "done": self.done,
            "failed": self.failed,
            "reasons": {reason.value: count for reason, count in self.reasons.items()},
            "out_of_step": self.last_hour(now).out_of_step,
            "sent": self.sent,
            "received": self.received,
            "last_minute": _times(self.last_minute(now)),
            "last_hour": _times(self.last_hour(now)),
            "seconds": round(self.seconds, 6),
            "durations": _cumulative(self.all_time(now)),
            "done_by_minute": done,
            "failed_by_minute": failed,
        }

    def last_minute(self, now: float) -> Slot:
        return self._with_current_slot(now, self._minute)

    def last_hour(self, now: float) -> Slot:
        total = self._with_current_slot(now, self._hour)
        total.add(self._this_minute)
        return total

    def by_minutes(self, now: float) -> tuple[list[int], list[int]]:
        """Replies and failures of each of the last sixty minutes; the current one is the last item."""
        this = self._with_current_slot(now, None)
        this.add(self._this_minute)
        slots = [*self._hour.slots, this]
        return [slot.done for slot in slots], [slot.failures for slot in slots]

    def all_time(self, now: float) -> Slot:
        total = self._with_current_slot(now, None)
        total.add(self._all_time)
        return total

    def _with_current_slot(self, now: float, window: _Window | None) -> Slot:
        """The sum of the window, if there is one, and of the current slot."""
        self._close_slots(now)
        total = Slot() if window is None else window.sum()
        total.add(self._slot.close())
        return total

    def _close_slots(self, now: float) -> None:
        """Close the slots that have ended by `now`; several, if nothing was counted for some time."""
        if now < self._slot_ends_at:
            return
        ended = int((now - self._slot_ends_at) // SLOT) + 1
        self._slot_ends_at += ended * SLOT
        slot, self._slot = self._slot.close(), Slot()
        self._close(slot if slot.done or slot.failures else _EMPTY)
        for _ in range(min(ended - 1, SLOTS_A_MINUTE * MINUTES)):
            self._close(_EMPTY)

    def _close(self, slot: Slot) -> None:
        self._shifts += self._minute.push(slot)
        if slot is not _EMPTY:
            self._all_time.add(slot)
            if self._this_minute is _EMPTY:
                self._this_minute = Slot()
            self._this_minute.add(slot)
        self._slots_of_this_minute += 1
        if self._slots_of_this_minute == SLOTS_A_MINUTE:
            self._shifts += self._this_minute is not _EMPTY or not self._hour.empty()
            self._hour.push(self._this_minute)
            self._this_minute = _EMPTY
            self._slots_of_this_minute = 0
