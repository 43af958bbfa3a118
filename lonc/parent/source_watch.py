"""Compares the files on the disk with what the daemon has read of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from lonc.errors import Fault, Misconfigured
from lonc.escape import escaped
from lonc.log import logger
from lonc.monitoring.status import FilesStatus
from lonc.source_file import FileState
from lonc.sources import Load, Sources

MOST_FAULTS = 10  # in a status report


class SourceWatch:
    """`in_force`: the sources that the daemon has taken.

    `load` reads the files again; it raises Misconfigured.
    """

    def __init__(self, sources: Sources, load: Load) -> None:
        self.in_force = sources
        self._load = load
        self._on_disk: Sources | None = sources  # as last read; None if there was no configuration
        self._faults: Sequence[Fault] = sources.faults  # of the files on the disk
        self._offered: Sequence[FileState] = ()  # the table files for which `look` has returned True
        self._read_at = [_now(), _now()]  # when configuration and table in force were read

    def read(self) -> Sources:
        """Read all files. Raises Misconfigured if there is no configuration."""
        try:
            self._on_disk = self._load()
        except Misconfigured as error:
            self._on_disk, self._faults = None, error.faults
            raise
        self._faults = self._on_disk.faults
        return self._on_disk

    def take(self, sources: Sources, all_files: bool) -> None:
        """`sources` are in force now; unless `all_files`, only their table."""
        now = _now()
        if all_files:
            self.in_force = sources
            self._read_at = [now, now]
        else:
            self.in_force = replace(self.in_force, table=sources.table)
            self._read_at[1] = now

    def look(self) -> bool:
        """Read files that have changed, and log new faults of theirs.

        Returns whether there are changed tables that can be taken: without faults, with hosts, and not
        being written, since they were the same at the look before. Returns that once for each change.
        """
        if self._on_disk is not None and not self._on_disk.outdated:
            files = self._on_disk.table.files
            changed = files is not self._offered and any(_differing(files, self.in_force.table.files))
            if changed and not self._faults and self._on_disk.hosts:
                self._offered = files
                return True
            return False
        known = self._faults
        with contextlib.suppress(Misconfigured):  # the faults are kept
            self.read()
        for fault in self._faults:
            if fault not in known:
                logger.warning("the files on the disk have a fault: %s", fault)
        return False

    def status(self) -> FilesStatus:
        """For the status report."""
        allow_empty = not self.in_force.hosts
        refusing = self._faults
        if self._on_disk is not None:
            refusing = self._on_disk.faults_that_refuse_start(allow_empty)
        # The faults that refuse a start first.
        faults = [*refusing, *(fault for fault in self._faults if fault not in refusing)]
        return FilesStatus(
            faults=[_as_text(fault) for fault in faults[:MOST_FAULTS]],
            fault_count=len(faults),
            would_start=not refusing,
            changed=list(self._changes()),
        )

    def _changes(self) -> Iterator[str]:
        """A sentence for each file that differs from what is in force."""
        if self._on_disk is None:
            return
        disk, force = self._on_disk, self.in_force
        configuration_at, table_at = self._read_at
        for before, now, at, command in (
            (force.configuration.files, disk.configuration.files, configuration_at, "reload"),
            (force.table.files, disk.table.files, table_at, "update"),
        ):
            for state in _differing(now, before):
                file = _as_text(state.path)
                yield f"{file} has changed since {_short(at)}: `lonc {command}` takes it"


def _differing(states: Sequence[FileState], others: Sequence[FileState]) -> Iterator[FileState]:
    """Those of `states` whose content is another in `others`."""
    digests = {other.path: other.digest for other in others}
    return (state for state in states if digests.get(state.path) != state.digest)


def _as_text(value: object) -> str:
    """A name of a file may have any bytes."""
    return escaped(os.fsencode(str(value)))


def _short(at: datetime) -> str:
    today = at.date() == datetime.now().date()
    return at.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")


def _now() -> datetime:
    return datetime.now().astimezone()
