"""What became of a host's transactions: how many, how long they took, and all that for the last minutes.

Of fixed size, whatever happens: times are counted in BOUNDS, slots are summed up when they are over.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate
from operator import add, sub
from typing import Any

# Upper bounds in seconds, ten a decade, each a quarter above the last (the preferred numbers R10).
BOUNDS = tuple(
    float(f"{digits}e{power}")
    for power in range(-5, 3)
    for digits in (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)
)
TOLD_BOUNDS = tuple(bound for bound in BOUNDS if f"{bound:e}"[:3] in ("1.0", "2.5", "5.0"))
_TOLD = [BOUNDS.index(bound) for bound in TOLD_BOUNDS]
_NONE = [0] * (len(BOUNDS) + 1)  # the last is for what took longer than all

SLOT = 5.0  # seconds; what is over for a minute leaves it so much later at most
SLOTS_A_MINUTE = 12
MINUTES = 60


class Reason(Enum):
    """Why there was no reply, in the words of the status report."""

    DEAD = "host dead"
    DISABLED = "host disabled"
    UNREACHABLE = "no connection"  # the attempt that it waited for has failed
    QUEUE_TIMEOUT = "queue timeout"
    REQUEST_TIMEOUT = "request timeout"
    LOST = "connection lost"  # with the request on its way
    STOPPED = "lonc stopped"


@dataclass
class Slot:
    """What ended in a stretch of time: replies by how long they took, and failures.

    `done` is the number of the replies, known once the slot is over.
    """

    replies: list[int] = field(default_factory=_NONE.copy)
    longest: float = 0.0
    failures: int = 0
    done: int = 0

    def over(self) -> Slot:
        self.done = sum(self.replies)
        return self

    def add(self, other: Slot) -> None:
        self.replies = list(map(add, self.replies, other.replies))
        self.done += other.done
        self.longest = max(self.longest, other.longest)
        self.failures += other.failures

    def percentile(self, share: float) -> float:
        """A time that this share of the replies took at most: a quarter too long, if not exact."""
        left = share * self.done
        for bound, count in zip(BOUNDS, self.replies, strict=False):
            left -= count
            if left <= 0:
                return min(bound, self.longest)
        return self.longest


_EMPTY = Slot(_NONE)  # stands for all slots in which nothing ended; nothing is added to it


class _Window:
    """The sum of the last so many slots, and each of them."""

    def __init__(self, slots: int) -> None:
        self.slots = deque([_EMPTY] * slots, maxlen=slots)
        self._replies = _NONE.copy()
        self._done = 0

    def push(self, slot: Slot) -> bool:
        """One more slot is over, and the oldest leaves; whether there was anything in that."""
        gone = self.slots[0]
        self.slots.append(slot)
        if gone is not _EMPTY:
            self._replies = list(map(sub, self._replies, gone.replies))
        if slot is not _EMPTY:
            self._replies = list(map(add, self._replies, slot.replies))
        self._done += slot.done - gone.done
        return gone is not _EMPTY

    def empty(self) -> bool:
        return all(slot is _EMPTY for slot in self.slots)

    def sum(self) -> Slot:
        return Slot(
            self._replies.copy(),
            max(slot.longest for slot in self.slots),
            sum(slot.failures for slot in self.slots),
            self._done,
        )


def _times(slot: Slot) -> dict[str, float] | None:
    """Seconds: half of the replies took at most p50, and so on; None without any."""
    if not slot.done:
        return None
    times = {f"p{share}": slot.percentile(share / 100) for share in (50, 90, 99)}
    return {name: round(seconds, 6) for name, seconds in (times | {"max": slot.longest}).items()}


def _cumulative(slot: Slot) -> list[int]:
    """How many replies took at most each of TOLD_BOUNDS."""
    sums = list(accumulate(slot.replies))
    return [sums[number] for number in _TOLD]


class Statistics:
    """Counters begin with it. Times are seconds of the loop's clock."""

    def __init__(self, now: float) -> None:
        self.done = 0
        self.seconds = 0.0  # that all replies took, together
        self.sent = 0  # bytes of requests that were answered
        self.received = 0  # of their replies
        self.failed = 0
        self.reasons: dict[Reason, int] = {}
        self._all_time = Slot()
        self._slot = Slot()
        self._over_at = now + SLOT
        self._minute = _Window(SLOTS_A_MINUTE)
        self._this_minute = _EMPTY
        self._slots_of_this_minute = 0
        self._hour = _Window(MINUTES - 1)
        self._shifts = 0  # how often the sums of the last minutes have changed by time alone

    def replied(self, now: float, since: float, sent: int, received: int) -> None:
        """A transaction that has waited since then, of so many bytes, got a reply of so many."""
        if now >= self._over_at:  # (asked here too: each reply would pay for the call)
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
        self._close_slots(now)
        self._slot.failures += count
        self.failed += count
        self.reasons[reason] = self.reasons.get(reason, 0) + count

    def version(self, now: float) -> tuple[int, int, int]:
        """Differs whenever the report does."""
        self._close_slots(now)
        return self.done, self.failed, self._shifts

    def report(self, now: float) -> dict[str, Any]:
        """All of it, by the names that the status report has for it."""
        done, failed = self.by_minutes(now)
        return {
            "done": self.done,
            "failed": self.failed,
            "reasons": {reason.value: count for reason, count in self.reasons.items()},
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
        return self._so_far(now, self._minute)

    def last_hour(self, now: float) -> Slot:
        total = self._so_far(now, self._hour)
        total.add(self._this_minute)
        return total

    def by_minutes(self, now: float) -> tuple[list[int], list[int]]:
        """Replies and failures of each of the last sixty minutes, the one that is not over last."""
        this = self._so_far(now, None)
        this.add(self._this_minute)
        slots = [*self._hour.slots, this]
        return [slot.done for slot in slots], [slot.failures for slot in slots]

    def all_time(self, now: float) -> Slot:
        total = self._so_far(now, None)
        total.add(self._all_time)
        return total

    def _so_far(self, now: float, window: _Window | None) -> Slot:
        self._close_slots(now)
        total = Slot() if window is None else window.sum()
        total.add(self._slot.over())
        return total

    def _close_slots(self, now: float) -> None:
        """Those that are over by now; after a longer rest the empty ones, too."""
        if now < self._over_at:
            return
        over = int((now - self._over_at) // SLOT) + 1
        self._over_at += over * SLOT
        slot, self._slot = self._slot.over(), Slot()
        self._close(slot if slot.done or slot.failures else _EMPTY)
        for _ in range(min(over - 1, SLOTS_A_MINUTE * MINUTES)):
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
