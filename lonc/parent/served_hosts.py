"""All hosts of the table, each with its supervisor, in the table's order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lonc.configuration import Settings
from lonc.errors import CannotStart
from lonc.hosts import Host
from lonc.parent.supervisor import Family, Supervisor
from lonc.runtime.event_loop import EventLoop


@dataclass(frozen=True)
class Change:
    """Names of the hosts that came or are no more what they were, and of those that are gone."""

    new: list[str]
    gone: list[str]


class ServedHosts:
    """`settings` and `hosts` are those of now; a host has a supervisor from `bind` on."""

    def __init__(self, loop: EventLoop, settings: Settings, hosts: Sequence[Host]) -> None:
        self.settings = settings
        self.hosts = hosts
        self.supervisors: dict[str, Supervisor] = {}  # by the host's name
        self._loop = loop
        self._family: Family = {}

    def __str__(self) -> str:
        return f"{len(self.hosts)} host{'' if len(self.hosts) == 1 else 's'}"

    def __iter__(self) -> Iterator[Supervisor]:
        return iter(self.supervisors.values())

    @property
    def names(self) -> dict[str, str]:
        """Of each id, its host's."""
        return {id_: host.name for host in self.hosts for id_ in host.ids}

    def bind(self, hosts: Sequence[Host], settings: Settings) -> None:
        """Make a supervisor for each host that has none; if one cannot be made, for none.

        Raises CannotStart.
        """
        made: dict[str, Supervisor] = {}
        try:
            for host in hosts:
                if host.name in self.supervisors:
                    self.supervisors[host.name].renew_socket()
                else:
                    made[host.name] = Supervisor(self._loop, self._family, host, settings)
        except CannotStart:
            for supervisor in made.values():
                supervisor.retire()
            raise
        self.supervisors |= made

    def become(self, hosts: Sequence[Host], settings: Settings) -> Change:
        """From now on these are the hosts, all of them bound; who is none of them is retired.

        Children that run go on with what they were forked with.
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

    def reap(self) -> None:
        """Hear of all children that have ended. As process 1 we are handed strangers, too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (child := self._family.pop(pid, None)) is not None:
                child.ended(status)

    @property
    def childless(self) -> bool:
        """Whether all children have been reaped, those of hosts that are gone, too."""
        return not self._family

    def retire(self) -> float:
        """Serve no host any more; returns how many seconds the children may take to drain."""
        for supervisor in self:
            supervisor.retire()
        for child in self._family.values():  # also those that leave after a reload
            child.terminate()
        return max((child.drain_timeout for child in self._family.values()), default=0.0)

    def kill(self, why: str) -> None:
        """End all children at once; `why` ends the sentence that tells of it."""
        for child in self._family.values():
            child.kill(why)
