"""Brings up new children of many hosts, a few at a time: no machine is to be swamped by its own lonc."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from lonc.parent.supervisor import Supervisor
from lonc.runtime.event_loop import EventLoop

ABREAST = 16  # hosts at a time
FEW = 4  # so many may still be under way when the next are begun with: children that are forked in a
# row share more of their parent's memory, and the parent copies less of it

IN_TIME = 1.0  # seconds; who takes longer does not hold up the next


class RollingRestart:
    """Callbacks: `on_failed(why)` for each child that does not come up; at last, once, `on_done()`."""

    def __init__(
        self, loop: EventLoop, on_failed: Callable[[str], None], on_done: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._left: deque[Supervisor] = deque()
        self._under_way = 0
        self._rows = 0  # that were begun
        self._few = FEW
        self._on_failed = on_failed
        self._on_done = on_done

    def begin(self, supervisors: Iterable[Supervisor]) -> None:
        self._left.extend(supervisors)
        self._go_on()

    def cancel(self) -> None:
        """Begin with no other host, and call nothing back."""
        self._left.clear()
        self._on_failed = lambda _: None
        self._on_done = lambda: None

    def _go_on(self) -> None:
        self._rows += 1
        self._loop.after(IN_TIME, partial(self._late, self._rows))
        while self._left and self._under_way < ABREAST:
            self._under_way += 1
            self._left.popleft().bring_up(self._up)
        if self._under_way == 0:
            self._on_done()

    def _up(self, why_not: str | None) -> None:
        self._under_way -= 1
        if why_not is not None:
            self._on_failed(why_not)
        if self._under_way <= self._few:
            self._go_on()

    def _late(self, row: int) -> None:
        """Callback: some hang. From now on the next is begun with as soon as one is done."""
        if row == self._rows and self._left:
            self._few = ABREAST - 1
            self._go_on()
