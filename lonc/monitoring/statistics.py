"""Counts the transactions of a host, their failures and their latencies.

A latency has two parts: the wait for a connection, and lond's time, from the start of the request on a
connection to its reply.

Fixed memory: latencies go into histogram buckets (BOUNDS); slots of 5 s roll up into minutes and an
hour. Most requests do not wait: the buckets for those that do are made with the first one in a slot.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate
from operator import add, sub
from typing import Any, NamedTuple

# Upper bounds of the buckets in seconds: ten per decade, each about a quarter above the last (the
# preferred numbers R10).
BOUNDS = tuple(
    float(f"{digits}e{power}")
    for power in range(-5, 3)
    for digits in (1, 1.25, 1.6, 2, 2.5, 3.15, 4, 5, 6.3, 8)
)
REPORTED_BOUNDS = tuple(bound for bound in BOUNDS if f"{bound:e}"[:3] in ("1.0", "2.5", "5.0"))
_REPORTED_INDICES = [BOUNDS.index(bound) for bound in REPORTED_BOUNDS]
_NONE = [0] * (len(BOUNDS) + 1)  # the last bucket: longer than every bound

SLOT = 5.0  # seconds; a transaction counts in "the last minute" for at most so much longer
SLOTS_A_MINUTE = 12
MINUTE = SLOT * SLOTS_A_MINUTE  # seconds
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


class Histogram:
    """Durations in seconds: the number in each bucket, and the longest.

    `zeros`: the number of durations that were 0; they are in no bucket.
    """

    __slots__ = ("counts", "longest", "zeros")

    def __init__(self) -> None:
        self.counts = _NONE.copy()
        self.longest = 0.0
        self.zeros = 0

    @property
    def total(self) -> int:
        """The number of durations."""
        return self.zeros + sum(self.counts)

    def count(self, seconds: float) -> None:
        """Add one duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        if seconds > self.longest:
            self.longest = seconds

    def add(self, other: Histogram) -> None:
        self.counts = list(map(add, self.counts, other.counts))
        self.longest = max(self.longest, other.longest)
        self.zeros += other.zeros

    def subtract(self, other: Histogram) -> None:
        """Undo `add`, except for `longest`."""
        self.counts = list(map(sub, self.counts, other.counts))
        self.zeros -= other.zeros

    def percentile(self, share: float) -> float:
        """The duration that a `share` (0 to 1) of them did not exceed.

        It is the upper bound of a bucket, at most a quarter too long.
        """
        remaining = share * self.total - self.zeros
        if remaining <= 0:
            return 0.0
        for bound, count in zip(BOUNDS, self.counts, strict=False):
            remaining -= count
            if remaining <= 0:
                return min(bound, self.longest)
        return self.longest

    def percentiles(self) -> dict[str, float] | None:
        """The figures of a report, in seconds; None without durations."""
        if not self.total:
            return None
        times = {f"p{share}": self.percentile(share / 100) for share in (50, 90, 99)}
        return {name: round(seconds, 6) for name, seconds in (times | {"max": self.longest}).items()}

    def cumulative(self) -> list[int]:
        """For each of REPORTED_BOUNDS, the number of durations of at most so long."""
        sums = list(accumulate(self.counts))
        return [self.zeros + sums[number] for number in _REPORTED_INDICES]


class Waited(NamedTuple):
    """The latencies of transactions that have waited for a connection, and both parts of each."""

    latency: Histogram
    wait: Histogram
    lond: Histogram


@dataclass
class Slot:
    """The transactions that ended within a period.

    `direct`: the latencies of those that did not wait; they are lond's times too. `waited`: those of the
    others; None without any. `saturated`: the seconds of the period in which all connections were busy.
    `done`: the number of replies, valid after `close`.
    """

    direct: Histogram = field(default_factory=Histogram)
    waited: Waited | None = None
    failures: int = 0
    out_of_step: int = 0  # of the failures
    wrong_keys: int = 0  # connections whose key did not fit
    fallbacks: int = 0  # connections that fell back to insecure
    saturated: float = 0.0
    done: int = 0

    def close(self) -> Slot:
        """Compute `done`; returns the slot itself."""
        self.done = self.direct.total + (0 if self.waited is None else self.waited.wait.total)
        return self

    def is_empty(self) -> bool:
        """Whether nothing is counted in it; valid after `close`."""
        counted = self.done or self.failures or self.wrong_keys or self.fallbacks
        return not (counted or self.saturated)

    def count_waited(self, latency: float, wait: float, lond: float) -> None:
        """Count a transaction that has waited; in seconds."""
        latencies, waits, times = self.waited or self._make_waited()
        latencies.count(latency)
        waits.count(wait)
        times.count(lond)

    def add(self, other: Slot) -> None:
        self.direct.add(other.direct)
        if other.waited is not None:
            for sum_, part in zip(self.waited or self._make_waited(), other.waited, strict=True):
                sum_.add(part)
        self.failures += other.failures
        self.out_of_step += other.out_of_step
        self.wrong_keys += other.wrong_keys
        self.fallbacks += other.fallbacks
        self.saturated += other.saturated
        self.done += other.done

    def subtract(self, other: Slot) -> None:
        """Undo `add`, except for each `longest`."""
        self.direct.subtract(other.direct)
        if other.waited is not None and self.waited is not None:
            for sum_, part in zip(self.waited, other.waited, strict=True):
                sum_.subtract(part)
        self.failures -= other.failures
        self.out_of_step -= other.out_of_step
        self.wrong_keys -= other.wrong_keys
        self.fallbacks -= other.fallbacks
        self.saturated -= other.saturated
        self.done -= other.done

    def latencies(self) -> Histogram:
        """From the arrival of each request to its reply."""
        return self._with_direct(None if self.waited is None else self.waited.latency)

    def lond_times(self) -> Histogram:
        """From the start of each request on a connection to its reply."""
        return self._with_direct(None if self.waited is None else self.waited.lond)

    def waits(self) -> Histogram:
        """For a connection; 0 for requests that found an idle one."""
        waits = Histogram()
        if self.waited is not None:
            waits.add(self.waited.wait)
        waits.zeros = self.direct.total
        return waits

    def _with_direct(self, part: Histogram | None) -> Histogram:
        total = Histogram()
        total.add(self.direct)
        if part is not None:
            total.add(part)
        return total

    def _make_waited(self) -> Waited:
        self.waited = Waited(Histogram(), Histogram(), Histogram())
        return self.waited


# Shared by many slots, never modified:
_EMPTY = Slot()
_SATURATED = Slot(saturated=SLOT)  # nothing ended, and all connections were busy


class _Window:
    """The last `slots` slots and their sum."""

    def __init__(self, slots: int) -> None:
        self.slots = deque([_EMPTY] * slots, maxlen=slots)
        self._sum = Slot()

    def push(self, slot: Slot) -> bool:
        """Add a closed slot and drop the oldest. Returns whether the dropped one was not empty."""
        dropped = self.slots[0]
        self.slots.append(slot)
        if dropped is not _EMPTY:
            self._sum.subtract(dropped)
        if slot is not _EMPTY:
            self._sum.add(slot)
        return dropped is not _EMPTY

    def empty(self) -> bool:
        return all(slot is _EMPTY for slot in self.slots)

    def sum(self) -> Slot:
        total = Slot()
        total.add(self._sum)
        total.direct.longest = max(slot.direct.longest for slot in self.slots)
        waited = [slot.waited for slot in self.slots if slot.waited is not None]
        for number, part in enumerate(total.waited or ()):
            part.longest = max((each[number].longest for each in waited), default=0.0)
        return total


class Statistics:
    """The statistics of one host since its child started. All times are seconds of the loop's clock."""

    def __init__(self, now: float) -> None:
        self.done = 0
        self.wait_seconds = 0.0  # sum of the waits for a connection of all replies
        self.lond_seconds = 0.0  # sum of lond's times
        self.saturated_seconds = 0.0  # in which all connections were busy; up to `_saturated_since`
        self.sent = 0  # bytes of requests that got a reply
        self.received = 0  # bytes of these replies
        self.failed = 0
        self.reasons: dict[Reason, int] = {}
        self.fallbacks = 0  # connections that fell back to insecure
        self._all_time = Slot()
        self._slot = Slot()
        self._slot_ends_at = now + SLOT
        self._saturated_since: float | None = None  # None while a connection is free
        self._minute = _Window(SLOTS_A_MINUTE)
        self._this_minute = _EMPTY
        self._slots_of_this_minute = 0
        self._hour = _Window(MINUTES - 1)
        self._shifts = 0  # how often passing time alone has changed the sums of the last minutes

    @property
    def seconds(self) -> float:
        """Sum of the latencies of all replies."""
        return self.wait_seconds + self.lond_seconds

    def replied(self, now: float, since: float, started: float, sent: int, received: int) -> None:
        """Count a transaction with a reply.

        `since`: when the request arrived. `started`: when it was started on a connection; equal to
        `since` if it has not waited. `sent`, `received`: bytes of the request and of the reply.
        """
        if now >= self._slot_ends_at:  # repeated here: a call costs 0.7 % of a transaction
            self._close_slots(now)
        lond = now - started
        if started == since:  # Histogram.count, without a call
            direct = self._slot.direct
            direct.counts[bisect_left(BOUNDS, lond)] += 1
            if lond > direct.longest:
                direct.longest = lond
        else:
            self.wait_seconds += started - since
            self._slot.count_waited(now - since, started - since, lond)
        self.done += 1
        self.lond_seconds += lond
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

    def wrong_key(self, now: float) -> None:
        """Count a connection whose key does not fit."""
        self._close_slots(now)
        self._slot.wrong_keys += 1

    def fell_back(self, now: float) -> None:
        """Count a connection that fell back to insecure."""
        self._close_slots(now)
        self._slot.fallbacks += 1
        self.fallbacks += 1

    def saturated(self, now: float) -> None:
        """From now on all connections are busy."""
        if now >= self._slot_ends_at:
            self._close_slots(now)
        self._saturated_since = now

    def desaturated(self, now: float) -> None:
        """From now on a connection is free, or another may be opened."""
        if now >= self._slot_ends_at:
            self._close_slots(now)
        self._count_saturation(now)
        self._saturated_since = None

    def version(self, now: float) -> tuple[float, ...]:
        """A value that differs whenever the report differs."""
        minute = self.saturated_last_minute(now)  # first: it closes slots
        counts = self.done, self.failed, self.fallbacks
        return *counts, self._shifts, minute, round(self.saturated_seconds, 1)

    def report(self, now: float) -> dict[str, Any]:
        """All statistics, as the fields of `HostStatus`."""
        done, failed = self.by_minutes(now)
        minute, hour, all_time = self.last_minute(now), self.last_hour(now), self.all_time(now)
        return {
            "done": self.done,
            "failed": self.failed,
            "reasons": {reason.value: count for reason, count in self.reasons.items()},
            "out_of_step": hour.out_of_step,
            "wrong_keys": hour.wrong_keys,
            "fallbacks": self.fallbacks,
            "fallbacks_last_hour": hour.fallbacks,
            "sent": self.sent,
            "received": self.received,
            "last_minute": minute.latencies().percentiles(),
            "last_hour": hour.latencies().percentiles(),
            "last_minute_wait": minute.waits().percentiles(),
            "last_hour_wait": hour.waits().percentiles(),
            "last_minute_lond": minute.lond_times().percentiles(),
            "last_hour_lond": hour.lond_times().percentiles(),
            "seconds": round(self.seconds, 6),
            "wait_seconds": round(self.wait_seconds, 6),
            "lond_seconds": round(self.lond_seconds, 6),
            "durations": all_time.latencies().cumulative(),
            "wait_durations": all_time.waits().cumulative(),
            "lond_durations": all_time.lond_times().cumulative(),
            "saturated_last_minute": self.saturated_last_minute(now),
            "saturated_seconds": round(self.saturated_seconds, 1),
            "done_by_minute": done,
            "failed_by_minute": failed,
        }

    def last_minute(self, now: float) -> Slot:
        return self._with_current_slot(now, self._minute)

    def last_hour(self, now: float) -> Slot:
        total = self._with_current_slot(now, self._hour)
        total.add(self._this_minute)
        return total

    def saturated_last_minute(self, now: float) -> float:
        """For how many of the last 60 s all connections were busy, to a tenth of a second.

        The slots go back further than that. Of the oldest, the same share is left out as has passed of
        the current one.
        """
        self._close_slots(now)
        self._count_saturation(now)
        seconds = sum(slot.saturated for slot in self._minute.slots) + self._slot.saturated
        passed = (now - (self._slot_ends_at - SLOT)) / SLOT
        return round(seconds - passed * self._minute.slots[0].saturated, 1)

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
        self._count_saturation(self._slot_ends_at)
        ended = int((now - self._slot_ends_at) // SLOT) + 1
        self._slot_ends_at += ended * SLOT
        slot, self._slot = self._slot.close(), Slot()
        self._close(_EMPTY if slot.is_empty() else slot)
        others = _EMPTY
        if self._saturated_since is not None:
            others = _SATURATED
            self._saturated_since = self._slot_ends_at - SLOT
            self.saturated_seconds += (ended - 1) * SLOT
        for _ in range(min(ended - 1, SLOTS_A_MINUTE * MINUTES)):
            self._close(others)

    def _count_saturation(self, until: float) -> None:
        """Count what has passed of a period in which all connections are busy, within this slot."""
        if self._saturated_since is not None:
            self._slot.saturated += until - self._saturated_since
            self.saturated_seconds += until - self._saturated_since
            self._saturated_since = until

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
