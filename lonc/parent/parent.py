"""The parent process: starts the children of all hosts, and stops them; joins its parts."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable
from functools import partial

from setproctitle import setproctitle

from lonc import __version__
from lonc.child.transaction import Transaction
from lonc.errors import DONE, AtStart, CannotStart
from lonc.log import logger
from lonc.monitoring.status import Phase
from lonc.parent.control import CONTROL_MODE, LineServer, outcome
from lonc.parent.orders import Orders
from lonc.parent.preflight import log_expiry, require_usable, revocations_until, within_limits
from lonc.parent.reload import PhaseNotifier, Reloader
from lonc.parent.rolling_restart import RollingRestart
from lonc.parent.served_hosts import ServedHosts
from lonc.parent.socket_creation import SocketCreation
from lonc.parent.socket_names import remove_left_links
from lonc.parent.source_watch import SourceWatch
from lonc.parent.spool_scan import SpoolScan
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.process import ignore_signals
from lonc.sources import Load, Sources
from lonc.wire.key_exchange import remove_key_files


class Parent:
    """Runs from before the first child until all have ended.

    Serves the hosts of `sources`, and logs the faults. `load` reads the files again, for a reload; it
    raises Misconfigured. `on_ready()` is called once, when every child is ready; it may raise
    CannotStart.
    """

    def __init__(self, sources: Sources, load: Load, on_ready: Callable[[], None]) -> None:
        settings, hosts = sources.settings, sources.hosts
        self._on_ready = on_ready
        self._watch = SourceWatch(sources, load)
        self._loop = EventLoop()
        self._phase = PhaseNotifier()
        self._served_hosts = ServedHosts(self._loop, settings, hosts)
        self._spool_scan = SpoolScan(self._loop, settings.delayed_directory)
        self._reloader = Reloader(
            self._loop, self._served_hosts, self._phase, self._watch, on_replaced=self._set_title
        )
        self._creation = SocketCreation(
            self._loop, self._served_hosts, self._phase, on_added=self._set_title
        )
        self._orders = Orders(
            self._loop,
            self._served_hosts,
            self._phase,
            self._spool_scan,
            self._watch,
            {"reload": self._reload, "update": self._reloader.update, "stop": self._order_stop},
        )
        self._first_start = RollingRestart(self._loop, self._start_failed, self._started)
        self._drained_by = 0.0  # by the loop's clock, once it is stopping
        self._terminated = False  # by a signal
        self._failure: str | None = None  # why it has not started

    def run(self) -> None:
        """Serve until a TERM, an INT or the order `stop`, and the end of all children.

        Raises CannotStart; then all children have ended.
        """
        handlers: dict[int, Callable[[], None]] = {
            signal.SIGCHLD: self._reap,
            signal.SIGTERM: partial(self._terminate, "TERM"),
            signal.SIGINT: partial(self._terminate, "INT"),
            signal.SIGHUP: self._reload,
            signal.SIGUSR1: self._print_status,
            signal.SIGUSR2: self._reloader.update,
        }
        ignore_signals(except_for=handlers)
        for signum, callback in handlers.items():
            self._loop.on_signal(signum, callback)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        with contextlib.ExitStack() as stack:
            stack.callback(self._loop.close)
            self._open(stack)
            self._set_title()
            logger.info("lonc %s starts, %s", __version__, self._served_hosts)
            for fault in self._watch.in_force.faults:
                log = logger.warning if fault.at_start is AtStart.WARNS else logger.error
                log("%s", fault)
            self._first_start.begin(self._served_hosts)
            self._scan_spool()
            self._loop.after(self._served_hosts.settings.delayed_interval, self._look_at_files)
            self._loop.run()
        if self._failure is not None:
            raise CannotStart(self._failure)
        logger.info("stopped")

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Check the settings and bind all sockets; `stack` removes them. Raises CannotStart."""
        served = self._served_hosts
        settings = within_limits(served.settings, len(served.hosts))
        served.settings = settings
        served.certified_until = require_usable(settings)
        served.revocations_until = revocations_until(settings)
        log_expiry(served.revocations_until)
        remove_keys = partial(remove_key_files, settings.socket_directory)
        remove_keys()  # left by a daemon that was killed
        stack.callback(remove_keys)  # left by children that were killed
        remove_left_links(settings.socket_directory)
        served.bind(served.hosts, settings)
        stack.callback(served.retire)
        control = LineServer(self._loop, settings.control_file, CONTROL_MODE, self._orders.carry_out)
        stack.callback(control.close)
        if settings.create_socket is not None:
            creation = LineServer(
                self._loop, settings.create_socket, settings.socket_mode, self._creation.carry_out
            )
            stack.callback(creation.close)

    def _started(self) -> None:
        """Callback: every child is ready."""
        logger.info("every child serves")
        try:
            self._on_ready()
        except CannotStart as error:
            self._start_failed(str(error))
            return
        self._phase.enter(Phase.RUNNING)
        self._reloader.begin_requested()

    def _start_failed(self, why: str) -> None:
        """Callback: a child has failed to start."""
        logger.error("cannot start: %s", why)
        self._failure = why
        self._stop("no start")

    def _reload(self, transaction: Transaction | None = None) -> None:
        self._reloader.reload(transaction)

    def _print_status(self) -> None:
        """Callback: USR1, which in the original also makes children try again."""
        self._orders.retry_all()
        self._orders.write_status()

    def _scan_spool(self) -> None:
        """Callback, once in `loncDelayedInterval`."""
        served = self._served_hosts
        self._spool_scan.scan(served.names, served.settings.max_delayed, served.look_for_delayed)
        self._loop.after(self._served_hosts.settings.delayed_interval, self._scan_spool)

    def _look_at_files(self) -> None:
        """Callback, once in `loncDelayedInterval`."""
        settings = self._served_hosts.settings
        running = self._phase.current is Phase.RUNNING
        if running and settings.table_watch and self._watch.look() and settings.table_watch == 2:
            self._reloader.update()
        self._loop.after(settings.delayed_interval, self._look_at_files)

    def _reap(self) -> None:
        """Callback: CHLD, for one child or several."""
        self._served_hosts.reap()
        self._end_if_childless()

    def _terminate(self, signal_name: str) -> None:
        """Callback: the first TERM or INT makes the children drain, the second ends them at once."""
        if self._terminated:
            self._served_hosts.kill("a second signal arrived")
        self._terminated = True
        self._stop(signal_name)

    def _order_stop(self, transaction: Transaction) -> None:
        """Answered with the seconds that the children may still take. May be repeated."""
        self._stop("ordered")
        left = max(0.0, self._drained_by - self._loop.now)
        transaction.complete(outcome(DONE, "stopping", drained_within=left))

    def _stop(self, why: str) -> None:
        """Make the children drain, once; the loop ends with the last of them."""
        if self._phase.current is Phase.STOPPING:
            return
        self._phase.enter(Phase.STOPPING)
        logger.info("stopping: %s", why)
        self._first_start.cancel()
        self._drained_by = self._loop.now + self._served_hosts.retire()
        self._reloader.stop()
        self._end_if_childless()

    def _end_if_childless(self) -> None:
        if self._phase.current is Phase.STOPPING and self._served_hosts.childless:
            self._loop.stop()

    def _set_title(self) -> None:
        setproctitle(f"lonc: parent, {self._served_hosts}")
