"""All files that configure lonc, as one value: configuration, hosts and faults, each with its origin.

A start takes what has no fault; a reload takes nothing if there is a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lonc.configuration import Settings
from lonc.configuration_file import Configuration, read_configuration
from lonc.errors import AtStart, Fault, Misconfigured
from lonc.hosts import Host, Table, read_tables
from lonc.source_file import FileState, has_changed

# Most likely a table without hosts is being written.
EMPTY = "no hosts: a table without any is taken by `lonc start --empty` only"


@dataclass(frozen=True)
class Sources:
    """What all files said at one moment."""

    configuration: Configuration
    table: Table

    @property
    def settings(self) -> Settings:
        return self.configuration.settings

    @property
    def hosts(self) -> Sequence[Host]:
        return self.table.hosts

    @property
    def faults(self) -> Sequence[Fault]:
        return [*self.configuration.faults, *self.table.faults]

    @property
    def files(self) -> Sequence[FileState]:
        return [*self.configuration.files, *self.table.files]

    def faults_that_refuse_start(self, allow_empty: bool = True) -> list[Fault]:
        """`allow_empty`: a table without hosts is no fault."""
        faults = [fault for fault in self.faults if fault.at_start is AtStart.REFUSES]
        # If clients may name hosts, a table is not needed.
        if not (self.hosts or faults or allow_empty or self.settings.trust_create):
            faults.append(Fault(self.settings.hosts_file, None, EMPTY))
        return faults

    def require_startable(self, allow_empty: bool = True) -> Sources:
        """Itself. Raises Misconfigured, with all faults, if one of them refuses a start."""
        if refusing := self.faults_that_refuse_start(allow_empty):
            raise Misconfigured([*self.faults, *(each for each in refusing if each not in self.faults)])
        return self

    def require_no_faults(self) -> Sources:
        """Itself. Raises Misconfigured if there is any fault."""
        if self.faults:
            raise Misconfigured(self.faults)
        return self

    def require_hosts(self) -> Sources:
        """Itself. Raises Misconfigured if there is no host."""
        if not self.hosts:
            raise Misconfigured([Fault(self.settings.hosts_file, None, EMPTY)])
        return self

    def for_settings(self, settings: Settings) -> Sources:
        """The hosts, and their faults, that the tables have with `settings`."""
        if _of_tables(settings) == _of_tables(self.settings):
            return self
        return replace(self, table=read_tables(settings))

    @property
    def outdated(self) -> bool:
        """Whether one of the files has been written, replaced, removed or made since it was read."""
        return any(map(has_changed, self.files))


Load = Callable[[], Sources]


def read_sources(file: Path) -> Sources:
    """Read the configuration `file` and the tables. Raises Misconfigured if `file` cannot be read."""
    configuration = read_configuration(file)
    return Sources(configuration, read_tables(configuration.settings))


def _of_tables(settings: Settings) -> tuple[object, ...]:
    """The settings on which the meaning of the tables depends."""
    return (
        settings.table_directory,
        settings.socket_directory,
        settings.socket_name,
        settings.create_socket,
    )
