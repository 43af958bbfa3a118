"""Queue (first in, first out) and Stack (last in, first out) that also remove any member at once.

Each operation takes the same time at any length, and each member has the time at which it was added.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Members(Generic[T]):
    """Distinct, hashable members in the order in which they were added."""

    __slots__ = ("_added_at",)

    def __init__(self) -> None:
        self._added_at: OrderedDict[T, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._added_at)

    def __iter__(self) -> Iterator[T]:
        """From the oldest to the newest."""
        return iter(self._added_at)

    def oldest(self) -> tuple[T, float] | None:
        """The member that was added first, and when; None if there is none."""
        return next(iter(self._added_at.items())) if self._added_at else None

    def due(self, seconds: float) -> float:
        """When the oldest member will have been here for `seconds`; infinity if there is none."""
        return next(iter(self._added_at.values())) + seconds if self._added_at else math.inf

    def pop_due(self, seconds: float, now: float) -> Iterator[T]:
        """Remove and yield each member that has been here for `seconds`, the oldest first."""
        while self.due(seconds) <= now:
            yield self._added_at.popitem(last=False)[0]

    def remove(self, member: T) -> bool:
        """Remove `member`, wherever it stands; False if it is not here."""
        if member not in self._added_at:
            return False
        del self._added_at[member]
        return True


class Queue(_Members[T]):
    """Transactions that wait: the oldest is served first."""

    __slots__ = ()

    def enqueue(self, member: T, now: float) -> None:
        """Add `member`, which is not here yet, at time `now`."""
        self._added_at[member] = now

    def dequeue(self) -> T | None:
        """Remove and return the oldest member; None if there is none."""
        return self._added_at.popitem(last=False)[0] if self._added_at else None


class Stack(_Members[T]):
    """Idle connections: the newest is used first, so that those not needed reach their idle timeout."""

    __slots__ = ()

    def push(self, member: T, now: float) -> None:
        """Add `member`, which is not here yet, at time `now`."""
        self._added_at[member] = now

    def pop(self) -> T | None:
        """Remove and return the newest member; None if there is none."""
        return self._added_at.popitem()[0] if self._added_at else None
