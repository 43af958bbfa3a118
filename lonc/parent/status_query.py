"""Asks all children for their status reports in parallel, and waits for them at most a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from lonc.monitoring.status import HostStatus
from lonc.parent.child_process import ANSWER_WITHIN
from lonc.parent.supervisor import Supervisor
from lonc.runtime.event_loop import EventLoop


class StatusQuery:
    """Begins when it is created. `on_done(statuses)` is called once, with the status of each host in the
    order of `supervisors`; a child that has not answered in time is reported as `not answering`."""

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
            supervisor.ask_status(partial(self._answered, supervisor))
        loop.after(0 if self._complete() else ANSWER_WITHIN, self._finish)

    def _complete(self) -> bool:
        return len(self._answers) == len(self._supervisors)

    def _answered(self, supervisor: Supervisor, status: HostStatus) -> None:
        self._answers[supervisor] = status
        if self._complete():
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
