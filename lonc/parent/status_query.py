"""Asks how all hosts are doing, side by side, and waits for no child longer than a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from lonc.monitoring.status import HostStatus
from lonc.parent.child_process import ANSWER_WITHIN
from lonc.parent.supervisor import Supervisor
from lonc.runtime.event_loop import EventLoop


class StatusQuery:
    """Begins when it is made. `on_done(answers)` is called once, with an answer for each supervisor, in
    order."""

    def __init__(
        self,
        loop: EventLoop,
        supervisors: Sequence[Supervisor],
        on_done: Callable[[list[HostStatus]], None],
    ) -> None:
        self._supervisors = list(supervisors)
        self._answers: dict[Supervisor, HostStatus] = {}
        self._on_done: Callable[[list[HostStatus]], None] | None = on_done
        for supervisor in self._supervisors:
            supervisor.ask_status(partial(self._heard, supervisor))
        loop.after((ANSWER_WITHIN if self._missing() else 0), self._finish)

    def _missing(self) -> bool:
        return len(self._answers) < len(self._supervisors)

    def _heard(self, supervisor: Supervisor, status: HostStatus) -> None:
        self._answers[supervisor] = status
        if not self._missing():
            self._finish()

    def _finish(self) -> None:
        if self._on_done is None:
            return
        on_done, self._on_done = self._on_done, None
        on_done(
            [
                self._answers.get(supervisor) or supervisor.unanswered()
                for supervisor in self._supervisors
            ]
        )
