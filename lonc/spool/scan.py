"""Reads `delayed/` step by step, however many files are in it.

Each function is a generator that yields the cost of its steps in microseconds, as
`lonc.runtime.slices` takes it, and returns its result.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lonc.runtime.directory import Directory
from lonc.spool.spool import BAD, Name, host_of

# Seconds for which a directory must have been unchanged before a scan, so that each later change has
# another time: file systems count in steps of up to two seconds.
SURELY_EARLIER = 3.0

MOST_ODD = 1000  # names that are no transaction's: the others are found when these are gone

# Microseconds, rounded up.
_READ_NAME = 1.0
_PARSE_NAME = 3.0
_SORT_NAME = 1.5

_STEP = 200  # names in a step


@dataclass
class Oldest:
    """The oldest transactions of a host: `names`, sorted, and how many more there are."""

    names: list[Name] = field(default_factory=list)
    more: int = 0


@dataclass
class Census:
    """All names: how many transactions by host, and those that are no transaction's."""

    by_host: Counter[str] = field(default_factory=Counter)
    impossible: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


def oldest(directory: Path, hosts: Collection[str], most: int) -> Generator[float, None, Oldest]:
    """Find the oldest transactions of `hosts`, at most `most`. Raises OSError."""
    endings = tuple(f".{host}" for host in hosts)
    found: list[tuple[_Key, Name]] = []
    count = parsed = 0
    last: str | None = None  # time of the newest in `found`, once that is full
    for texts in _names(directory):
        yield len(texts) * _READ_NAME + parsed * _PARSE_NAME
        parsed = 0
        for text in texts:
            if not text.endswith(endings):
                continue
            if last is not None and len(last) == text.find(".") and text[: len(last)] > last:
                count += 1  # it is behind all of `found`: no need to parse the name
                continue
            name = Name.parse(text)
            parsed += 1
            if name is not None and name.host in hosts:
                count += 1
                found.append((_key(name), name))
        if len(found) >= 2 * most:
            yield len(found) * _SORT_NAME
            found.sort()
            del found[most:]
            last = str(found[-1][1].time)
    yield len(found) * _SORT_NAME
    found.sort()
    names = [name for _, name in found[:most]]
    return Oldest(names, count - len(names))


def census(directory: Path) -> Generator[float, None, Census]:
    """Count all names. Raises OSError."""
    found = Census()
    for texts in _names(directory):
        yield len(texts) * _PARSE_NAME
        for text in texts:
            if text.startswith("."):  # the temporary name of a file that is being written
                if len(found.unfinished) < MOST_ODD and Name.parse(text[1:]) is not None:
                    found.unfinished.append(text)
            elif (host := host_of(text)) is not None:
                found.by_host[host] += 1
            elif text != BAD and len(found.impossible) < MOST_ODD:
                found.impossible.append(text)
    found.unfinished.sort()
    found.impossible.sort()
    return found


def count_names(directory: Path) -> Generator[float, None, int]:
    """Raises OSError."""
    count = 0
    for texts in _names(directory):
        yield len(texts) * _READ_NAME
        count += len(texts)
    return count


class Unchanged:
    """Whether a directory of many files is as it was at the last scan, so that none is needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._scanned: int | None = None  # its time of change at the last scan, if that is reliable

    def __bool__(self) -> bool:
        """False also if that is not certain. Raises OSError."""
        return self._scanned is not None and self._scanned == _time_of_change(self._directory)

    def scan_begins(self) -> None:
        """Raises OSError."""
        changed = _time_of_change(self._directory)
        age = time.time_ns() - changed
        self._scanned = changed if age >= SURELY_EARLIER * 1_000_000_000 else None

    def scan_failed(self) -> None:
        self._scanned = None


_Key = tuple[int, int, int, str, str, str]


def _key(name: Name) -> _Key:
    """Sorts as the name does, and faster."""
    return name.time, name.count, name.pid, name.command, name.host, name.text


def _time_of_change(path: Path) -> int:
    try:
        with Directory(path) as directory:
            return directory.fstat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _names(path: Path) -> Iterator[list[str]]:
    """The names, in portions; a missing directory counts as empty. Raises OSError."""
    with contextlib.suppress(FileNotFoundError), Directory(path) as directory:
        yield from directory.portions(_STEP)
