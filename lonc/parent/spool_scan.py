"""What the parent sees of the delayed transactions: for whom there are some, and what is nobody's."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from lonc.log import RateLimitedLog, logger
from lonc.monitoring.status import stray
from lonc.runtime.event_loop import EventLoop
from lonc.spool.spool import BAD, Name, listing, move_to_bad

ABANDONED_AFTER = 86400.0  # seconds; a file that was begun to be written, and has not got its name


def count_strays(names: Iterable[Name], hosts: Collection[str]) -> dict[str, int]:
    """How many of `names` are for which host that is none of `hosts`."""
    counts = Counter(name.host for name in names if name.host not in hosts)
    return dict(sorted(counts.items()))


class SpoolScan:
    """`strays` are counts by host of what waits for hosts that are not in the table, `bad` is how many
    were put aside."""

    def __init__(self, loop: EventLoop, directory: Path) -> None:
        self.strays: dict[str, int] = {}
        self.bad = 0
        self._directory = directory
        self._impossible: dict[str, tuple[int, int]] = {}  # size and time of change at the last look
        self._unfinished: dict[str, float] = {}  # since when we see them, by the loop's clock
        self._loop = loop
        self._complain = RateLimitedLog(loop).warn

    def look(self, hosts: Mapping[str, str]) -> list[str]:
        """The names of those `hosts`, which are by their ids, that something waits for.

        What has an impossible name, and has not changed since the last look, is put aside; what was
        never finished is removed in the end.
        """
        try:
            names, impossible, unfinished = listing(self._directory)
        except OSError as error:
            self._complain(f"cannot read {self._directory}: {error.strerror}")
            return []
        self._remove(unfinished)
        self._put_aside(impossible)
        strays = count_strays(names, hosts)
        for host in strays.keys() - self.strays.keys():
            logger.warning("%s", stray(host, strays[host]))
        self.strays = strays
        with contextlib.suppress(OSError):  # there is no such directory before there is anything bad
            self.bad = len(os.listdir(self._directory / BAD))
        waited_for = {hosts.get(name.host) for name in names}
        return [host for host in dict.fromkeys(hosts.values()) if host in waited_for]

    def _put_aside(self, impossible: list[str]) -> None:
        before, self._impossible = self._impossible, {}
        for text in impossible:
            try:
                found = os.lstat(self._directory / text)
                look = found.st_size, found.st_mtime_ns
                if before.get(text) != look:
                    self._impossible[text] = look
                    continue
                move_to_bad(self._directory, text)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._complain(f"cannot move {text} to {self._directory}/bad: {error.strerror}")
            else:
                logger.error("moved %s to %s/bad: its name is impossible", text, self._directory)

    def _remove(self, unfinished: list[str]) -> None:
        """Nobody was told that these are saved, and after so long nobody writes them any more."""
        before, now = self._unfinished, self._loop.now
        self._unfinished = {text: before.get(text, now) for text in unfinished}
        for text, since in self._unfinished.items():
            path = self._directory / text
            try:
                if now - since > ABANDONED_AFTER:
                    os.unlink(path)
                    logger.warning("removed %s: its writer has died", path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._complain(f"cannot remove {path}: {error.strerror}")
