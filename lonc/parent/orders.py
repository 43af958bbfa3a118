"""Carries out the orders that arrive at the parent's sockets, and answers each with one line.

    order               answer
    ------------------------------------------------------------------------------------
    status              the status report, one line of JSON
    settings            the texts of all settings in force, by name, one line of JSON
    reload              outcome, once the reload is over
    update              outcome, once the hosts that changed are restarted
    retry               outcome, at once
    retry HOST          outcome, with the state of the host
    disable HOST        outcome, with the state of the host
    enable HOST         outcome, with the state of the host
    stop                outcome, at once, with "drained_within": seconds

An outcome is JSON, too: {"exit": STATUS, "text": SENTENCES}; the command that gave the order prints the
text and exits with that status.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from datetime import datetime

from lonc import __version__
from lonc.child.transaction import Transaction
from lonc.configuration import did_you_mean
from lonc.errors import DONE, USAGE
from lonc.log import logger
from lonc.monitoring.status import HostStatus, Report
from lonc.monitoring.text import to_text
from lonc.parent.control import outcome
from lonc.parent.reload import PhaseNotifier
from lonc.parent.served_hosts import ServedHosts
from lonc.parent.source_watch import SourceWatch
from lonc.parent.spool_scan import SpoolScan
from lonc.parent.status_query import StatusQuery
from lonc.parent.supervisor import Supervisor
from lonc.runtime.directory import replace_file
from lonc.runtime.event_loop import EventLoop


class Orders:
    """`others` are the orders without a host that are carried out elsewhere."""

    def __init__(
        self,
        loop: EventLoop,
        served_hosts: ServedHosts,
        phase: PhaseNotifier,
        spool_scan: SpoolScan,
        watch: SourceWatch,
        others: Mapping[str, Callable[[Transaction], None]],
    ) -> None:
        self._loop = loop
        self._served_hosts = served_hosts
        self._phase = phase
        self._spool_scan = spool_scan
        self._watch = watch
        self._since = datetime.now().astimezone().isoformat(timespec="seconds")
        self._writing_status = False
        self._orders = {
            "status": self._answer_status,
            "settings": self._answer_settings,
            "retry": self.retry_all,
            **others,
        }
        self._host_orders: dict[str, Callable[[Supervisor], None]] = {
            "retry": lambda supervisor: supervisor.retry(),
            "disable": lambda supervisor: supervisor.set_disabled(True),
            "enable": lambda supervisor: supervisor.set_disabled(False),
        }

    def carry_out(self, transaction: Transaction) -> None:
        """An order of the control socket."""
        order = transaction.request.decode(errors="backslashreplace").rstrip("\n")
        word, _, host = order.partition(" ")
        if order in self._orders:
            self._orders[order](transaction)
        elif host and word in self._host_orders:
            self._order_host(transaction, host, self._host_orders[word])
        else:
            transaction.complete(outcome(USAGE, f"there is no order {order!r}"))

    def retry_all(self, transaction: Transaction | None = None) -> None:
        """Make all children forget their failed attempts and connect now."""
        for supervisor in self._served_hosts:
            supervisor.retry()
        if transaction is not None:
            transaction.complete(outcome(DONE, f"trying {self._served_hosts}"))

    def write_status(self) -> None:
        """Write the status report to the log and to its file, unless that is about to happen."""
        if not self._writing_status:
            self._writing_status = True
            self._query_status(self._write_report)

    def _order_host(
        self, transaction: Transaction, host: str, order: Callable[[Supervisor], None]
    ) -> None:
        """Answered with the host's state after it: a child carries out its orders in turn."""
        name = self._served_hosts.names.get(host, host)
        supervisor = self._served_hosts.supervisors.get(name)
        if supervisor is None:
            text = f"{name} is not in the table{did_you_mean(name, self._served_hosts.supervisors)}"
            transaction.complete(outcome(USAGE, text))
            return
        order(supervisor)

        def answer(statuses: list[HostStatus]) -> None:
            transaction.complete(outcome(DONE, f"{name} is {statuses[0].state}"))

        StatusQuery(self._loop, [supervisor], answer)

    def _answer_status(self, transaction: Transaction) -> None:
        self._query_status(lambda report: transaction.complete(report.to_line()))

    def _answer_settings(self, transaction: Transaction) -> None:
        texts = self._served_hosts.settings.texts()
        transaction.complete(json.dumps(texts).encode() + b"\n")

    def _query_status(self, on_report: Callable[[Report], None]) -> None:
        def report(statuses: list[HostStatus]) -> None:
            expires = self._served_hosts.certified_until
            list_expires = self._served_hosts.revocations_until
            on_report(
                Report(
                    self._phase.current,
                    os.getpid(),
                    __version__,
                    self._since,
                    statuses,
                    self._spool_scan.strays,
                    self._spool_scan.bad,
                    None if expires is None else expires.isoformat(),
                    None if list_expires is None else list_expires.isoformat(),
                    self._watch.status(),
                )
            )

        StatusQuery(self._loop, list(self._served_hosts), report)

    def _write_report(self, report: Report) -> None:
        self._writing_status = False
        for host in report.hosts:
            logger.info("status of %s: %s", host.host, host.to_text())
        file = self._served_hosts.settings.status_file
        try:
            replace_file(file, to_text(report).encode())
        except OSError as error:
            logger.error("cannot write %s: %s", file, error.strerror)
