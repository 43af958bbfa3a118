"""Queue: first come, first served. Stack: last used, first reused.

Both let go of any member at once, and know since when it is there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Members(Generic[T]):
    """Distinct members in the order in which they came; each operation costs the same at any length."""

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: OrderedDict[T, float] = OrderedDict()  # and since when it is here

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[T]:
        """First come, first."""
        return iter(self._members)

    def oldest(self) -> tuple[T, float] | None:
        """Who is here the longest, and since when."""
        return next(iter(self._members.items())) if self._members else None

    def remove(self, member: T) -> bool:
        """Take `member` out, wherever it stands; False if it is not here."""
        if member not in self._members:
            return False
        del self._members[member]
        return True


class Queue(_Members[T]):
    """What waits, in the order in which it came."""

    __slots__ = ()

    def enqueue(self, member: T, now: float) -> None:
        self._members[member] = now

    def dequeue(self) -> T | None:
        """The member that has waited longest, or None."""
        return self._members.popitem(last=False)[0] if self._members else None


class Stack(_Members[T]):
    """What is at rest; the member used last is used next, so that the others may grow old."""

    __slots__ = ()

    def push(self, member: T, now: float) -> None:
        self._members[member] = now

    def pop(self) -> T | None:
        """The member pushed last, or None."""
        return self._members.popitem()[0] if self._members else None
