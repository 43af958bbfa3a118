"""All hosts and their children: starts them, answers for them, reloads, and ends them all."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from setproctitle import setproctitle

from lonc import __version__
from lonc.child.transaction import Transaction
from lonc.configuration import Settings, did_you_mean
from lonc.errors import DONE, FAILED, USAGE, CannotStart, Fault, LoncError, Misconfigured
from lonc.hosts import Host
from lonc.log import logger, set_level
from lonc.monitoring.status import HostStatus, Phase, Report
from lonc.monitoring.text import to_text
from lonc.parent.answering_socket import AnsweringSocket
from lonc.parent.control import MODE as CONTROL_MODE
from lonc.parent.control import Orders, outcome
from lonc.parent.preflight import require_usable, within_limits
from lonc.parent.rolling_restart import RollingRestart
from lonc.parent.served_hosts import ServedHosts
from lonc.parent.spool_scan import SpoolScan
from lonc.parent.status_query import StatusQuery
from lonc.parent.supervisor import Supervisor
from lonc.replies import NO_SUCH_HOST
from lonc.runtime import systemd
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.process import ignore_signals
from lonc.wire.key_exchange import remove_key_files

MOST_NAMES = 10  # of hosts in a sentence
EMPTY = "no hosts: a table without any is taken at a start, not at a reload"

Load = Callable[[], tuple[Settings, list[Host]]]


class Parent:
    """From before the first child until after the last.

    `load` reads the files again, for a reload; it raises Misconfigured. `on_ready()` is called once,
    when every child has said that it serves.
    """

    def __init__(
        self, settings: Settings, hosts: Sequence[Host], load: Load, on_ready: Callable[[], None]
    ) -> None:
        self._load = load
        self._on_ready = on_ready
        self._since = datetime.now().astimezone().isoformat(timespec="seconds")
        self._loop = EventLoop()
        self._served_hosts = ServedHosts(self._loop, settings, hosts)
        self._rolling_restart: RollingRestart | None = None  # while starting or reloading
        self._reloading: list[Transaction] = []  # who waits for the reload that is under way
        self._to_reload: list[Transaction] | None = None  # and for the next one, if there is to be one
        self._only_changed = True  # of the next one: leave alone what has not changed
        self._printing = False  # a status was asked for by signal, and the children are being asked
        self._phase = Phase.STARTING
        self._drained_by = 0.0  # by the loop's clock, once it is stopping
        self._failure: str | None = None
        self._spool_scan = SpoolScan(self._loop, settings.delayed_directory)
        self._terminated = False  # once by signal
        self._certified_until: datetime | None = None  # we are, where we need to be

    def run(self) -> None:
        """Serve until TERM or INT and the end of all children. Raises CannotStart."""
        heard: dict[int, Callable[[], None]] = {
            signal.SIGCHLD: self._reap,
            signal.SIGTERM: partial(self._terminate, "TERM"),
            signal.SIGINT: partial(self._terminate, "INT"),
            signal.SIGHUP: self._reload,
            signal.SIGUSR1: self._print_status,
            signal.SIGUSR2: self._update,
        }
        ignore_signals(except_for=heard)
        for signum, callback in heard.items():
            self._loop.on_signal(signum, callback)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        with contextlib.ExitStack() as stack:
            stack.callback(self._loop.close)
            served_hosts = self._served_hosts
            served_hosts.settings = within_limits(served_hosts.settings, len(served_hosts.hosts))
            self._certified_until = require_usable(served_hosts.settings)
            remove_keys = partial(remove_key_files, served_hosts.settings.socket_directory)
            remove_keys()  # of a daemon that was killed
            stack.callback(remove_keys)  # of children that were
            served_hosts.bind(served_hosts.hosts, served_hosts.settings)
            stack.callback(served_hosts.retire)
            orders = {
                "status": self._answer_status,
                "reload": self._reload,
                "update": self._update,
                "retry": self._retry_all,
                "stop": self._stop_as_ordered,
            }
            host_orders = {
                "retry": partial(self._order_supervisor, order=Supervisor.retry),
                "disable": partial(
                    self._order_supervisor, order=partial(Supervisor.set_disabled, disabled=True)
                ),
                "enable": partial(
                    self._order_supervisor, order=partial(Supervisor.set_disabled, disabled=False)
                ),
            }
            take_order = Orders(orders, host_orders).take
            control = AnsweringSocket(
                self._loop, served_hosts.settings.control_file, CONTROL_MODE, take_order
            )
            stack.callback(control.close)
            if (path := served_hosts.settings.create_socket) is not None:
                creation = AnsweringSocket(
                    self._loop, path, served_hosts.settings.socket_mode, self._create_socket
                )
                stack.callback(creation.close)
            self._set_title()
            logger.info("lonc %s starts, %s", __version__, served_hosts)
            self._rolling_restart = RollingRestart(self._loop, self._fail, self._started)
            self._rolling_restart.begin(served_hosts)
            self._look_for_delayed()
            self._loop.run()
        if self._failure is not None:
            raise CannotStart(self._failure)
        logger.info("stopped")

    def _enter(self, phase: Phase) -> None:
        """The one place that writes the phase."""
        self._phase = phase
        if phase is Phase.RUNNING:
            systemd.notify(systemd.READY)
        elif phase is Phase.RELOADING:
            systemd.notify(systemd.reloading())
        elif phase is Phase.STOPPING:
            systemd.notify(systemd.STOPPING)

    def _query_status(self, on_report: Callable[[Report], None]) -> None:
        def done(hosts: list[HostStatus]) -> None:
            report = Report(
                self._phase,
                os.getpid(),
                __version__,
                self._since,
                hosts,
                self._spool_scan.strays,
                self._spool_scan.bad,
                None if self._certified_until is None else self._certified_until.isoformat(),
            )
            on_report(report)

        StatusQuery(self._loop, list(self._served_hosts), done)

    def _answer_status(self, transaction: Transaction) -> None:
        self._query_status(lambda report: transaction.complete(report.to_line()))

    def _print_status(self) -> None:
        """Callback: USR1; several of them within a second or so are answered as one."""
        self._retry_all()
        if not self._printing:
            self._printing = True
            self._query_status(self._write_status)

    def _retry_all(self, transaction: Transaction | None = None) -> None:
        """Let all children try at once what they would try later."""
        for supervisor in self._served_hosts:
            supervisor.retry()
        if transaction is not None:
            transaction.complete(outcome(DONE, f"trying {self._served_hosts}"))

    def _order_supervisor(
        self, transaction: Transaction, host: str, order: Callable[[Supervisor], None]
    ) -> None:
        """Do it, and answer when the child has heard of it."""
        host = self._served_hosts.names.get(host, host)  # an id will do
        supervisor = self._served_hosts.supervisors.get(host)
        if supervisor is None:
            text = f"{host} is not in the table{did_you_mean(host, self._served_hosts.supervisors)}"
            transaction.complete(outcome(USAGE, text))
            return
        order(supervisor)

        def done(hosts: list[HostStatus]) -> None:
            transaction.complete(outcome(DONE, f"{host} is {hosts[0].state}"))

        StatusQuery(self._loop, [supervisor], done)

    def _create_socket(self, transaction: Transaction) -> None:
        """Later clients ask for the socket of a host before they use it: DNSNAME:HOSTID, and more."""
        name, _, more = transaction.request.decode(errors="replace").rstrip("\n").partition(":")
        supervisors = self._served_hosts.supervisors
        supervisor = supervisors.get(name) or supervisors.get(more.partition(":")[0])
        if supervisor is None:
            transaction.complete(NO_SUCH_HOST + b"\n")
            return

        def done(why_not: str | None) -> None:
            transaction.complete(b"done\n" if why_not is None else f"error: {why_not}\n".encode())

        if self._phase is Phase.STOPPING:
            done("lonc is stopping")
            return
        try:
            supervisor.renew_socket()
        except CannotStart as error:
            logger.error("%s", error)
            done(str(error))
            return
        if supervisor.outdated:  # its child has the one that was removed
            supervisor.restart(done)
        else:
            done(None)

    def _look_for_delayed(self) -> None:
        """Callback, now and then: tell the children what is theirs."""
        supervisors = self._served_hosts.supervisors
        for host in self._spool_scan.look(self._served_hosts.names):
            supervisors[host].look_for_delayed()
        self._loop.after(self._served_hosts.settings.delayed_interval, self._look_for_delayed)

    def _write_status(self, report: Report) -> None:
        self._printing = False
        for host in report.hosts:
            logger.info("status of %s: %s", host.host, host.to_text())
        file = self._served_hosts.settings.status_file
        being_made = file.with_name("." + file.name)
        try:
            being_made.write_text(to_text(report))
            being_made.rename(file)
        except OSError as error:
            logger.error("cannot write %s: %s", file, error.strerror)

    def _started(self) -> None:
        """Callback: every child is ready."""
        self._rolling_restart = None
        logger.info("every child serves")
        try:
            self._on_ready()
        except CannotStart as error:
            self._fail(str(error))
            return
        self._enter(Phase.RUNNING)
        self._go_on()

    def _fail(self, why: str) -> None:
        """Callback: a child did not come up at the start."""
        logger.error("cannot start: %s", why)
        self._failure = why
        self._stop("no start")

    def _reload(self, transaction: Transaction | None = None) -> None:
        """Once, after whatever is under way, for all that have asked by then."""
        self._only_changed = False
        self._update(transaction)

    def _update(self, transaction: Transaction | None = None) -> None:
        """The same, for hosts alone that have changed in the table; unless somebody wants all."""
        if self._to_reload is None:
            self._to_reload = []
        if transaction is not None:
            self._to_reload.append(transaction)
        self._go_on()

    def _go_on(self) -> None:
        """Begin with the reload that was asked for, unless something is under way."""
        if self._to_reload is None or self._rolling_restart is not None:
            return
        self._reloading, self._to_reload = self._to_reload, None
        only_changed, self._only_changed = self._only_changed, True
        certified_until = self._certified_until
        if self._phase is Phase.STOPPING:
            self._reloaded(FAILED, ["lonc is stopping"])
            return
        self._enter(Phase.RELOADING)
        try:
            settings, hosts = self._load()
            if only_changed:
                settings = self._served_hosts.settings
            elif changed := self._served_hosts.settings.fixed_changes(settings):
                raise CannotStart(f"{', '.join(changed)} cannot change while lonc runs: restart it")
            else:
                certified_until = require_usable(settings)
            if self._served_hosts.hosts and not hosts:  # a table that is just being written, most likely
                raise Misconfigured([Fault(settings.hosts_file, None, EMPTY)])
            settings = within_limits(settings, len(hosts))
            self._served_hosts.bind(hosts, settings)
        except LoncError as error:
            self._enter(Phase.RUNNING)
            self._reloaded(error.exit_status, str(error).splitlines())
        else:
            self._certified_until = certified_until
            self._replace(settings, hosts, only_changed)

    def _replace(self, settings: Settings, hosts: Sequence[Host], only_changed: bool) -> None:
        change = self._served_hosts.replace(hosts, settings)
        set_level(settings.log_level)
        self._set_title()
        failures: list[str] = []
        done_what = "updated" if only_changed else "reloaded"

        def done() -> None:
            self._rolling_restart = None
            self._enter(Phase.RUNNING)
            if failures:
                text = f"not all is {done_what}: {len(failures)} of {self._served_hosts}"
                self._reloaded(FAILED, [text], told_already=failures)
                return
            changes = [f"new or changed: {_some(change.new)}"] if change.new else []
            changes += [f"gone: {_some(change.gone)}"] if change.gone else []
            self._reloaded(DONE, ["; ".join([f"{done_what}, {self._served_hosts}", *changes])])

        self._rolling_restart = RollingRestart(self._loop, failures.append, done)
        self._rolling_restart.begin(
            supervisor
            for supervisor in self._served_hosts
            if not only_changed or supervisor.host.name in change.new or supervisor.outdated
        )

    def _reloaded(self, status: int, lines: Sequence[str], told_already: Sequence[str] = ()) -> None:
        """Tell all who have waited, and the log what it was not `told_already`."""
        for line in lines:
            if status == DONE:
                logger.info("%s", line)
            else:
                logger.error("reload: %s", line)
        waiting, self._reloading = self._reloading, []
        for transaction in waiting:
            transaction.complete(outcome(status, "\n".join([*told_already, *lines])))
        self._go_on()

    def _reap(self) -> None:
        """Callback: a child has ended, perhaps several."""
        self._served_hosts.reap()
        if self._phase is Phase.STOPPING and self._served_hosts.childless:
            self._loop.stop()

    def _terminate(self, signal_name: str) -> None:
        """Callback: the first TERM or INT lets the children drain, the second ends them at once."""
        if self._terminated:
            self._served_hosts.kill("it was to end at once")
        self._terminated = True
        self._stop(signal_name)

    def _stop(self, why: str) -> None:
        """Let the children drain; as often as you like."""
        if self._phase is Phase.STOPPING:
            return
        self._enter(Phase.STOPPING)
        logger.info("stopping: %s", why)
        if self._rolling_restart is not None:
            self._rolling_restart.cancel()
            self._rolling_restart = None
        self._drained_by = self._loop.now + self._served_hosts.retire()
        if self._reloading:
            self._reloaded(FAILED, ["lonc is stopping"])
        self._go_on()
        if self._served_hosts.childless:
            self._loop.stop()

    def _stop_as_ordered(self, transaction: Transaction) -> None:
        """Tells how long the children may still take."""
        self._stop("ordered")
        left = max(0.0, self._drained_by - self._loop.now)
        transaction.complete(outcome(DONE, "stopping", drained_within=left))

    def _set_title(self) -> None:
        setproctitle(f"lonc: parent, {self._served_hosts}")


def _some(hosts: Sequence[str]) -> str:
    more = [f"{len(hosts) - MOST_NAMES} more"] if len(hosts) > MOST_NAMES else []
    return ", ".join([*hosts[:MOST_NAMES], *more])
