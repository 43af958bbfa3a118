"""The log and its lines: one event, one line.

    2026-11-24T02:12:05.123+00:00 INFO 1234 msul1: ready: connected

Time with zone, level, process, host (`parent` for the parent), a sentence. Whatever others said stands
in it with its control characters escaped. A log that cannot be written is no reason to stop.

The log is always standard error. A daemon's leads to a file, and follows it when somebody moves or
removes it, or its directory: each process looks before it writes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import traceback
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol

# (O_NONBLOCK: the name could be that of a FIFO by now.)
LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
LOG_MODE = 0o640  # the sentences name hosts and addresses
STANDARD_ERROR = 2

REPEAT_AFTER = 60.0  # seconds until the same complaint is told again
REMEMBERED_COMPLAINTS = 100  # others' words are in them, so there may be any number

logger = logging.getLogger("lonc")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class _Log(logging.Handler):
    """Writes to standard error, which `file`, if there is one, is made to be."""

    speaker = "parent"

    def __init__(self, file: Path | None) -> None:
        super().__init__()
        self._file = file
        self._cut_off = False  # the last line, by a full disk

    def emit(self, record: logging.LogRecord) -> None:
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        text = _CONTROL.sub(lambda match: ascii(match[0])[1:-1], record.getMessage())
        line = f"{time} {record.levelname} {record.process} {self.speaker}: {text}\n"
        if self._file is not None:
            with contextlib.suppress(OSError):
                _follow(self._file)
        with contextlib.suppress(OSError):
            data = (b"\n" if self._cut_off else b"") + line.encode()
            self._cut_off = os.write(STANDARD_ERROR, data) < len(data)


def _follow(file: Path) -> None:
    """Make standard error lead to the file of that name, if another or none has that name by now.

    Raises OSError; then the log goes on in the file that it was.
    """
    try:
        if os.path.samestat(os.stat(file), os.fstat(STANDARD_ERROR)):
            return
    except FileNotFoundError:
        pass
    fd = os.open(file, LOG_FLAGS, LOG_MODE)
    os.dup2(fd, STANDARD_ERROR, inheritable=True)
    os.close(fd)


def open_log(level: str, file: Path | None = None) -> None:
    """Write lines of `level` (a word of `loncLogLevel`) and above, to `file` where one is given.

    Raises OSError if that cannot be opened.
    """
    if file is not None:
        _follow(file)
    logger.handlers = [_Log(file)]
    logger.propagate = False
    set_level(level)


def set_level(level: str) -> None:
    logger.setLevel(level.upper())


class Clock(Protocol):
    """What calls back later."""

    def after(self, seconds: float, callback: Callable[[], None]) -> object: ...


class RateLimitedLog:
    """The same complaint is told once in a minute, with `prefix` before it: at first at once, then with
    how often it came meanwhile."""

    def __init__(self, clock: Clock, prefix: str = "") -> None:
        self._clock = clock
        self._prefix = prefix
        self._repeated: dict[str, int] = {}

    def warn(self, why: str) -> None:
        if why in self._repeated:
            self._repeated[why] += 1
            return
        logger.warning("%s%s", self._prefix, why)
        self.mark_logged(why)

    def mark_logged(self, why: str) -> None:
        """It has just been told, perhaps in other words."""
        if why not in self._repeated and len(self._repeated) < REMEMBERED_COMPLAINTS:
            self._repeated[why] = 0
            self._clock.after(REPEAT_AFTER, partial(self._tell_again, why))

    def _tell_again(self, why: str) -> None:
        count = self._repeated.pop(why)
        if count:
            logger.warning("%s%s (%d more in %.0f s)", self._prefix, why, count, REPEAT_AFTER)
            self.mark_logged(why)


def log_as(host: str) -> None:
    """From now on this process is the child of `host`."""
    _Log.speaker = host


def in_one_line(crash: Exception) -> str:
    """What a traceback says, in one line: the exception, and the way to it."""
    places = traceback.extract_tb(crash.__traceback__)
    way = ", ".join(f"{Path(at.filename).name}:{at.lineno}" for at in places)
    return f"{type(crash).__name__}: {crash} ({way})"
