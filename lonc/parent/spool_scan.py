"""Reads the spool for the parent: finds hosts with delayed transactions, counts strays, cleans up."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from lonc.log import RateLimitedLog, logger
from lonc.monitoring.status import describe_stray
from lonc.runtime.directory import Directory
from lonc.runtime.event_loop import EventLoop
from lonc.spool.spool import BAD, Name, listing, move_to_bad

ABANDONED_AFTER = 86400.0  # seconds until an unfinished file is removed


def count_strays(names: Iterable[Name], hosts: Collection[str]) -> dict[str, int]:
    """How many of `names` there are for each host that is not one of `hosts`, by host."""
    counts = Counter(name.host for name in names if name.host not in hosts)
    return dict(sorted(counts.items()))


class SpoolScan:
    """Of the last scan: `strays`, how many files there are for each host that is not in the table, and
    `bad`, how many files are in `bad/`."""

    def __init__(self, loop: EventLoop, directory: Path) -> None:
        self.strays: dict[str, int] = {}
        self.bad = 0
        self._directory = directory
        self._impossible: dict[str, tuple[int, int]] = {}  # size and mtime at the last scan
        self._unfinished: dict[str, float] = {}  # first seen, by the loop's clock
        self._loop = loop
        self._log = RateLimitedLog(loop)

    def scan(self, hosts: Mapping[str, str]) -> list[str]:
        """The names of hosts that have delayed transactions; `hosts` are all names, by host id.

        Moves files with an impossible name to `bad/` once they no longer change, and removes unfinished
        files after ABANDONED_AFTER.
        """
        try:
            names, impossible, unfinished = listing(self._directory)
        except OSError as error:
            self._log.warn(f"cannot read {self._directory}: {error.strerror}")
            return []
        self._remove_abandoned(unfinished)
        self._reject(impossible)
        strays = count_strays(names, hosts)
        for host in strays.keys() - self.strays.keys():
            logger.warning("%s", describe_stray(host, strays[host]))
        self.strays = strays
        # The directory is made with the first rejected file.
        with contextlib.suppress(OSError), Directory(self._directory / BAD) as rejected:
            self.bad = len(rejected.names())
        waiting = {hosts.get(name.host) for name in names}
        return [host for host in dict.fromkeys(hosts.values()) if host in waiting]

    def _reject(self, impossible: list[str]) -> None:
        before, self._impossible = self._impossible, {}
        for text in impossible:
            try:
                found = self._stat(text)
                size_and_time = found.st_size, found.st_mtime_ns
                if before.get(text) != size_and_time:  # perhaps a program is writing it
                    self._impossible[text] = size_and_time
                    continue
                move_to_bad(self._directory, text, found.st_ino)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._log.warn(f"cannot move {text} to {self._directory}/bad: {error.strerror}")
            else:
                logger.error("moved %s to %s/bad: its name is impossible", text, self._directory)

    def _remove_abandoned(self, unfinished: list[str]) -> None:
        """Remove old unfinished files: no program got con_delayed for them, or still writes them."""
        before, now = self._unfinished, self._loop.now
        self._unfinished = {text: before.get(text, now) for text in unfinished}
        for text, since in self._unfinished.items():
            path = self._directory / text
            try:
                if now - since > ABANDONED_AFTER:
                    with Directory(self._directory) as directory:
                        directory.unlink(text)
                    logger.warning("removed %s: its writer has died", path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._log.warn(f"cannot remove {path}: {error.strerror}")

    def _stat(self, text: str) -> os.stat_result:
        """Raises OSError."""
        with Directory(self._directory) as directory:
            found = directory.stat(text)
        if found is None:
            raise FileNotFoundError
        return found
