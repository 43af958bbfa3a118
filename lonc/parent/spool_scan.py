"""Reads the spool for the parent: finds hosts with delayed transactions, counts strays, cleans up."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from lonc.log import RateLimitedLog, logger
from lonc.monitoring.status import describe_stray
from lonc.runtime.directory import Directory
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.slices import Slices
from lonc.spool.scan import Census, Unchanged, census, count_names
from lonc.spool.spool import BAD, Name, describe_full, move_to_bad

ABANDONED_AFTER = 86400.0  # seconds until an unfinished file is removed
FILE_COST = 100.0  # microseconds, to move or remove a file


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
        self._counted = Census()
        self._unchanged = Unchanged(directory)
        self._bad_unchanged = Unchanged(directory / BAD)
        self._impossible: dict[str, tuple[int, int]] = {}  # size and mtime at the last scan
        self._unfinished: dict[str, float] = {}  # first seen, by the loop's clock
        self._loop = loop
        self._log = RateLimitedLog(loop)
        self._slices = Slices(loop, _nothing)

    def scan(self, hosts: Mapping[str, str], most: int, on_found: Callable[[list[str]], None]) -> None:
        """Scan the directory, unless that is under way, in slices: other events are handled in between.

        `hosts`: all names, by host id. `most`: loncMaxDelayed.
        `on_found(names)`: the hosts that have delayed transactions, in the order of the table.

        Moves files with an impossible name to `bad/` once they no longer change, and removes unfinished
        files after ABANDONED_AFTER.
        """
        if not self._slices.under_way:
            self._slices.begin(self._steps(hosts, most, on_found))

    def _steps(
        self, hosts: Mapping[str, str], most: int, on_found: Callable[[list[str]], None]
    ) -> Iterator[float]:
        try:
            if not self._unchanged or self._counted.impossible:
                self._unchanged.scan_begins()
                self._counted = yield from census(self._directory)
        except OSError as error:
            self._unchanged.scan_failed()
            self._log.warn(f"cannot read {self._directory}: {error.strerror}")
            return
        yield from self._remove_abandoned(self._counted.unfinished)
        yield from self._reject(self._counted.impossible)
        with contextlib.suppress(OSError):  # the directory is made with the first rejected file
            if not self._bad_unchanged:
                self._bad_unchanged.scan_begins()
                self.bad = yield from count_names(self._directory / BAD)
        by_host = self._counted.by_host
        strays = {host: by_host[host] for host in sorted(by_host.keys() - hosts.keys())}
        for host in strays.keys() - self.strays.keys():
            logger.warning("%s", describe_stray(host, strays[host]))
        self.strays = strays
        for host, count in by_host.items():
            if count >= most:
                self._log.warn(describe_full(host, count))
        waiting = {hosts.get(host) for host in by_host}
        on_found([host for host in dict.fromkeys(hosts.values()) if host in waiting])

    def _reject(self, impossible: list[str]) -> Iterator[float]:
        before, self._impossible = self._impossible, {}
        for text in impossible:
            yield FILE_COST
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

    def _remove_abandoned(self, unfinished: list[str]) -> Iterator[float]:
        """Remove old unfinished files: no program got con_delayed for them, or still writes them."""
        before, now = self._unfinished, self._loop.now
        self._unfinished = {text: before.get(text, now) for text in unfinished}
        for text, since in list(self._unfinished.items()):
            yield FILE_COST
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


def _nothing() -> None:
    """The last step calls back itself."""
