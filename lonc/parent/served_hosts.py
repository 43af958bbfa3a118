"""The hosts of the table, each with its supervisor, and all their children."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from lonc.configuration import Settings
from lonc.errors import CannotStart
from lonc.hosts import Host
from lonc.parent.supervisor import ChildrenByPid, Supervisor
from lonc.runtime.event_loop import EventLoop


@dataclass(frozen=True)
class Change:
    """Names of the hosts that were added or changed, and of those that were removed."""

    new: list[str]
    gone: list[str]


class ServedHosts:
    """`settings` and `hosts` are those in force. A host has a supervisor once `bind` has returned."""

    def __init__(self, loop: EventLoop, settings: Settings, hosts: Sequence[Host]) -> None:
        self.settings = settings
        self.hosts = hosts
        self.certified_until: datetime | None = None  # expiry of this machine's certificate, if needed
        self.revocations_until: datetime | None = None  # expiry of the list of revoked ones
        self.supervisors: dict[str, Supervisor] = {}  # by the host's name, in the table's order
        self._loop = loop
        self._children: ChildrenByPid = {}  # of all supervisors, also of hosts that were removed

    def __str__(self) -> str:
        return f"{len(self.hosts)} host{'' if len(self.hosts) == 1 else 's'}"

    def __iter__(self) -> Iterator[Supervisor]:
        return iter(self.supervisors.values())

    @property
    def names(self) -> dict[str, str]:
        """The name of its host, by host id."""
        return {id_: host.name for host in self.hosts for id_ in host.ids}

    def bind(self, hosts: Sequence[Host], settings: Settings) -> None:
        """Make a supervisor for each host that has none, and bind missing sockets again.

        Raises CannotStart; then no supervisor has been added.
        """
        added: dict[str, Supervisor] = {}
        try:
            for host in hosts:
                if host.name in self.supervisors:
                    self.supervisors[host.name].renew_socket()
                else:
                    added[host.name] = Supervisor(self._loop, self._children, host, settings)
        except CannotStart:
            for supervisor in added.values():
                supervisor.retire()
            raise
        self.supervisors |= added

    @property
    def requested(self) -> dict[str, Host]:
        """Those of `hosts` that no table has, since only clients have named them, by name."""
        return {host.name: host for host in self.hosts if host.line == 0}

    @property
    def has_table_hosts(self) -> bool:
        """Whether one of `hosts` is in a table."""
        return len(self.hosts) > len(self.requested)

    def with_requested(self, hosts: Sequence[Host], settings: Settings) -> list[Host]:
        """`hosts` of tables, and, if `settings` trust them, those that only clients have named."""
        names = {host.name for host in hosts}
        ids = {id_ for host in hosts for id_ in host.ids}
        requested = self.requested.values() if settings.trust_create else ()
        kept = [
            replace(host, id=free[0], ids=tuple(free))
            for host in requested
            if host.name not in names and (free := [id_ for id_ in host.ids if id_ not in ids])
        ]
        return [*hosts, *kept]

    def request(self, host: Host) -> Supervisor:
        """Serve `host`, which no table has, or serve it as it is now. Raises CannotStart."""
        self.bind([host], self.settings)
        self.hosts = [*(each for each in self.hosts if each.name != host.name), host]
        supervisor = self.supervisors[host.name]
        supervisor.host = host
        return supervisor

    def replace(self, hosts: Sequence[Host], settings: Settings) -> Change:
        """Put these, all of them bound, into force; hosts that are not among them are retired.

        Children that run keep the settings with which they were forked.
        """
        names = {host.name for host in hosts}
        change = Change(
            new=[host.name for host in hosts if host not in self.hosts],
            gone=[name for name in self.supervisors if name not in names],
        )
        for name in change.gone:
            self.supervisors.pop(name).retire()
        self.supervisors = {host.name: self.supervisors[host.name] for host in hosts}
        self.settings, self.hosts = settings, hosts
        for host in hosts:
            supervisor = self.supervisors[host.name]
            supervisor.host, supervisor.settings = host, settings
        return change

    def look_for_delayed(self, names: Iterable[str]) -> None:
        """Make the children of these hosts read the spool; hosts that were removed are left out."""
        for name in names:
            if name in self.supervisors:
                self.supervisors[name].look_for_delayed()

    def reap(self) -> None:
        """Reap all children that have ended. (Process 1 of a container is given strangers as well.)"""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (child := self._children.pop(pid, None)) is not None:
                child.ended(status)

    @property
    def childless(self) -> bool:
        """Whether all children have been reaped, also those of hosts that were removed."""
        return not self._children

    def retire(self) -> float:
        """Serve no host any longer; returns how many seconds the children may take to drain."""
        for supervisor in self:
            supervisor.retire()
        for child in self._children.values():  # also those that were replaced and still finish requests
            child.terminate()
        return max((child.drain_timeout for child in self._children.values()), default=0.0)

    def kill(self, why: str) -> None:
        """End all children at once, for the reason `why`."""
        for child in self._children.values():
            child.kill(why)
