"""The log: one event, one line on standard error.

    2026-11-24T02:12:05.123+00:00 INFO 1234 msul1: ready: connected

That is: the time with its zone, level, process, host (`parent` for the parent), a sentence. What
cannot be printed is escaped. A log that cannot be written does not end lonc.

A daemon's standard error is a file. Before each line the process compares the file with its name: after
the file or its directory was moved or removed, a new file is opened. A process that logs nothing does so
every ten seconds, when the parent pings the children.
"""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from lonc.escape import escaped
from lonc.runtime.directory import Directory

LOG_MODE = 0o640  # not for all users: the sentences name hosts and addresses
STANDARD_ERROR = 2

REPEAT_AFTER = 60.0  # seconds until a repeated message is logged again
LOGGED_AT_MOST = 100  # different messages in that time; they may contain what a lond sent
COUNTED_AT_MOST = 1000  # different messages beyond those; a bound of memory

logger = logging.getLogger("lonc")


class _Log(logging.Handler):
    """Writes each record as one line to standard error, which leads to `file` if there is one."""

    host = "parent"

    def __init__(self, file: Path | None) -> None:
        super().__init__()
        self._file = file
        self._last_line_is_cut = False  # by a full disk

    def follow(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                _follow(self._file)

    def emit(self, record: logging.LogRecord) -> None:
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        text = escaped(record.getMessage())
        line = f"{time} {record.levelname} {record.process} {self.host}: {text}\n"
        self.follow()
        with contextlib.suppress(OSError):
            data = (b"\n" if self._last_line_is_cut else b"") + line.encode()
            self._last_line_is_cut = os.write(STANDARD_ERROR, data) < len(data)


def _follow(file: Path) -> None:
    """Open `file` as standard error, unless it is that already.

    Raises OSError; then standard error stays as it was.
    """
    # (A look by path changes nothing, and is all that a line costs while the file is the same.)
    try:
        if os.path.samestat(os.stat(file), os.fstat(STANDARD_ERROR)):
            return
    except FileNotFoundError:
        pass
    with Directory(file.parent) as directory:
        fd = directory.open_to_append(file.name, LOG_MODE)
    os.dup2(fd, STANDARD_ERROR, inheritable=True)
    os.close(fd)


def follow() -> None:
    """Open the log again if it was moved, for a process that logs nothing."""
    for handler in logger.handlers:
        if isinstance(handler, _Log):
            handler.follow()


def open_log(level: str, file: Path | None = None) -> None:
    """Log lines of `level` (a word of `loncLogLevel`) and above, to `file` if one is given.

    Raises OSError if that cannot be opened.
    """
    if file is not None:
        _follow(file)
    logger.handlers = [_Log(file)]
    logger.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    """Log lines of `level` and above from now on."""
    logger.setLevel(level.upper())


class Clock(Protocol):
    """What RateLimitedLog needs of an EventLoop."""

    def after(self, seconds: float, callback: Callable[[], None]) -> object: ...


class RateLimitedLog:
    """Logs warnings, none more than once in REPEAT_AFTER, each with `prefix` in front.

    - A message is logged at once; its repeats are counted, and logged as one line REPEAT_AFTER later.
    - Beyond LOGGED_AT_MOST different messages, all others are counted together and logged as one line.
    """

    def __init__(self, clock: Clock, prefix: str = "") -> None:
        self._clock = clock
        self._prefix = prefix
        self._repeats: dict[str, int] = {}  # by message: its repeats since it was logged
        self._unlogged: set[int] = set()  # hashes of the messages beyond the limit
        self._unlogged_count = 0

    def warn(self, message: str) -> None:
        """Log it or count it."""
        if message in self._repeats:
            self._repeats[message] += 1
        elif len(self._repeats) < LOGGED_AT_MOST:
            logger.warning("%s%s", self._prefix, message)
            self.mark_logged(message)
        else:
            self._count_unlogged(message)

    def mark_logged(self, message: str) -> None:
        """The caller has just logged it, perhaps in other words: count its repeats from now on."""
        if message not in self._repeats and len(self._repeats) < LOGGED_AT_MOST:
            self._repeats[message] = 0
            self._clock.after(REPEAT_AFTER, partial(self._log_repeats, message))

    def _log_repeats(self, message: str) -> None:
        count = self._repeats.pop(message)
        if count:
            logger.warning("%s%s (%d more in %.0f s)", self._prefix, message, count, REPEAT_AFTER)
            self.mark_logged(message)

    def _count_unlogged(self, message: str) -> None:
        if not self._unlogged_count:
            self._clock.after(REPEAT_AFTER, self._log_unlogged)
        self._unlogged_count += 1
        if len(self._unlogged) < COUNTED_AT_MOST:
            self._unlogged.add(hash(message))

    def _log_unlogged(self) -> None:
        count, different = self._unlogged_count, len(self._unlogged)
        logger.warning(
            "%s%d more message%s, %s%d of them different, not logged in %.0f s",
            self._prefix,
            count,
            "" if count == 1 else "s",
            "at least " if different == COUNTED_AT_MOST else "",
            different,
            REPEAT_AFTER,
        )
        self._unlogged.clear()
        self._unlogged_count = 0


def log_as(host: str) -> None:
    """Name `host` in all further lines: this process is its child."""
    _Log.host = host


def in_one_line(crash: Exception) -> str:
    """A traceback in one line: the exception, then file and line of each call."""
    calls = traceback.extract_tb(crash.__traceback__)
    places = ", ".join(f"{Path(call.filename).name}:{call.lineno}" for call in calls)
    return f"{type(crash).__name__}: {crash} ({places})"
