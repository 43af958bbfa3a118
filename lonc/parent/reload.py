"""Reloads: reads the files again, puts them into force, and restarts children; one at a time.

A reload restarts the children of all hosts; an update those of hosts that changed. Both are requested by
an order or a signal. All that are requested during one are done as one after it, which is an update only
if no reload is among them. In the phase STARTING they wait; in STOPPING they fail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lonc.child.transaction import Transaction
from lonc.configuration import Settings
from lonc.errors import DONE, FAILED, CannotStart, LoncError
from lonc.hosts import Host
from lonc.log import logger, set_level
from lonc.monitoring.status import Phase
from lonc.parent.control import outcome
from lonc.parent.preflight import log_expiry, require_usable, revocations_until, within_limits
from lonc.parent.rolling_restart import RollingRestart
from lonc.parent.served_hosts import Change, ServedHosts
from lonc.parent.source_watch import SourceWatch
from lonc.runtime import systemd
from lonc.runtime.event_loop import EventLoop
from lonc.sources import Sources

MOST_NAMES = 10  # of hosts, in a sentence


class PhaseNotifier:
    """The daemon's phase, of which systemd is notified."""

    def __init__(self) -> None:
        self.current = Phase.STARTING

    def enter(self, phase: Phase) -> None:
        """The one method that writes the phase."""
        self.current = phase
        if phase is Phase.RUNNING:
            systemd.notify(systemd.READY)
        elif phase is Phase.RELOADING:
            systemd.notify(systemd.reloading())
        elif phase is Phase.STOPPING:
            systemd.notify(systemd.STOPPING)


class Reloader:
    """Callback: `on_replaced()`, when other hosts are in force."""

    def __init__(
        self,
        loop: EventLoop,
        served_hosts: ServedHosts,
        phase: PhaseNotifier,
        watch: SourceWatch,
        on_replaced: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._served_hosts = served_hosts
        self._phase = phase
        self._watch = watch
        self._on_replaced = on_replaced
        self._restart: RollingRestart | None = None  # while reloading
        self._answering: list[Transaction] = []  # the orders that began the reload under way
        self._requested: list[Transaction] | None = None  # those of the next; None if there is none
        self._all_hosts = False  # of the next

    def reload(self, transaction: Transaction | None = None) -> None:
        """Request a reload, and complete `transaction` with its outcome."""
        self._all_hosts = True
        self.update(transaction)

    def update(self, transaction: Transaction | None = None) -> None:
        """Request an update, and complete `transaction` with its outcome."""
        if self._requested is None:
            self._requested = []
        if transaction is not None:
            self._requested.append(transaction)
        self.begin_requested()

    def begin_requested(self) -> None:
        """Begin the reload that was requested, if there is one and the phase allows it."""
        phase = self._phase.current
        if self._requested is None or phase in (Phase.STARTING, Phase.RELOADING):
            return
        self._answering, self._requested = self._requested, None
        all_hosts, self._all_hosts = self._all_hosts, False
        if phase is Phase.STOPPING:
            self._end(FAILED, ["lonc is stopping"])
            return
        self._phase.enter(Phase.RELOADING)
        try:
            sources, settings, hosts = self._read_files(all_hosts)
        except LoncError as error:
            self._phase.enter(Phase.RUNNING)
            self._end(error.exit_status, str(error).splitlines())
        else:
            self._watch.take(sources, all_hosts)
            self._restart_children(settings, hosts, all_hosts)

    def stop(self) -> None:
        """The phase is STOPPING now: end the reload under way, and fail what was requested."""
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if self._answering:
            self._end(FAILED, ["lonc is stopping"])
        self.begin_requested()

    def _read_files(self, all_hosts: bool) -> tuple[Sources, Settings, Sequence[Host]]:
        """Sources without faults, and the settings and hosts that will be in force, all of them usable,
        with every host's socket bound; raises LoncError."""
        served = self._served_hosts
        sources = self._watch.read()
        if not all_hosts:
            sources = sources.for_settings(served.settings)
        settings = sources.require_no_faults().settings
        certified_until, listed_until = served.certified_until, served.revocations_until
        if not all_hosts:
            settings = served.settings
        elif changed := served.settings.fixed_changes(settings):
            raise CannotStart(f"{', '.join(changed)} cannot change while lonc runs: restart it")
        else:
            certified_until = require_usable(settings)
            listed_until = revocations_until(settings)
            log_expiry(listed_until)
        if served.has_table_hosts:
            sources.require_hosts()
        hosts = served.with_requested(sources.hosts, settings)
        settings = within_limits(settings, len(hosts))
        served.bind(hosts, settings)
        served.certified_until, served.revocations_until = certified_until, listed_until
        return sources, settings, hosts

    def _restart_children(self, settings: Settings, hosts: Sequence[Host], all_hosts: bool) -> None:
        change = self._served_hosts.replace(hosts, settings)
        set_level(settings.log_level)
        self._on_replaced()
        failures: list[str] = []

        def end() -> None:
            self._restart = None
            self._phase.enter(Phase.RUNNING)
            self._end_restart(change, failures, "reloaded" if all_hosts else "updated")

        self._restart = RollingRestart(self._loop, failures.append, end)
        self._restart.begin(
            supervisor
            for supervisor in self._served_hosts
            if all_hosts or supervisor.host.name in change.new or supervisor.outdated
        )

    def _end_restart(self, change: Change, failures: list[str], done: str) -> None:
        if failures:
            text = f"not all is {done}: {len(failures)} of {self._served_hosts}"
            self._end(FAILED, [text], logged_already=failures)
            return
        parts = [f"{done}, {self._served_hosts}"]
        if change.new:
            parts.append(f"new or changed: {_list_names(change.new)}")
        if change.gone:
            parts.append(f"gone: {_list_names(change.gone)}")
        self._end(DONE, ["; ".join(parts)])

    def _end(self, status: int, lines: Sequence[str], logged_already: Sequence[str] = ()) -> None:
        """Log `lines`, answer the orders that began the reload, and begin the next one."""
        for line in lines:
            if status == DONE:
                logger.info("%s", line)
            else:
                logger.error("reload: %s", line)
        answering, self._answering = self._answering, []
        for transaction in answering:
            transaction.complete(outcome(status, "\n".join([*logged_already, *lines])))
        self.begin_requested()


def _list_names(names: Sequence[str]) -> str:
    more = [f"{len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return ", ".join([*names[:MOST_NAMES], *more])
