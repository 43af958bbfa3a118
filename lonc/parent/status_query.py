"""Asks how all hosts are doing, side by side, and waits for no child longer than a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from lonc.monitoring.status import HostStatus
from lonc.parent.child_process import ANSWER_WITHIN
from lonc.parent.supervisor import Keeper
from lonc.runtime.event_loop import EventLoop


class Survey:
    """Begins when it is made. `on_done(answers)` is called once, with one for each keeper, in order."""

    def __init__(
        self,
        loop: EventLoop,
        keepers: Sequence[Keeper],
        on_done: Callable[[list[HostStatus]], None],
    ) -> None:
        self._keepers = list(keepers)
        self._answers: dict[Keeper, HostStatus] = {}
        self._on_done: Callable[[list[HostStatus]], None] | None = on_done
        for keeper in self._keepers:
            keeper.ask_status(partial(self._heard, keeper))
        loop.after((ANSWER_WITHIN if self._missing() else 0), self._finish)

    def _missing(self) -> bool:
        return len(self._answers) < len(self._keepers)

    def _heard(self, keeper: Keeper, status: HostStatus) -> None:
        self._answers[keeper] = status
        if not self._missing():
            self._finish()

    def _finish(self) -> None:
        if self._on_done is None:
            return
        on_done, self._on_done = self._on_done, None
        on_done([self._answers.get(keeper) or keeper.unanswered() for keeper in self._keepers])
