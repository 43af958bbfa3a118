"""Does long work in slices, between which the loop calls other callbacks.

The work is a generator that yields the rough cost of each of its steps, in microseconds. Slices end by
that cost and not by a clock, so that short work is always done at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lonc.runtime.event_loop import Deadline, EventLoop

SLICE = 4000  # microseconds


class Slices:
    """Work that is begun by `begin`, which returns whether it was done at once.

    Callback: `on_done()` when it is done later.
    """

    def __init__(self, loop: EventLoop, on_done: Callable[[], None]) -> None:
        self._loop = loop
        self._on_done = on_done
        self._work: Iterator[float] | None = None
        self._next: Deadline | None = None

    @property
    def under_way(self) -> bool:
        return self._work is not None

    def begin(self, work: Iterator[float]) -> bool:
        """Do `work`; other work must not be under way."""
        self._work = work
        return self._do_slice()

    def cancel(self) -> None:
        """Do no more of the work."""
        self._work = None
        if self._next is not None:
            self._next.cancel()

    def _do_slice(self) -> bool:
        """Returns whether the work is done."""
        left: float = SLICE
        for cost in self._work or ():
            left -= cost
            if left <= 0:
                self._next = self._loop.after(0, self._go_on)
                return False
        self._work = None
        return True

    def _go_on(self) -> None:
        if self._do_slice():
            self._on_done()
