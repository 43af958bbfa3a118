"""The log and its lines: one event, one line.

    2026-11-24T02:12:05.123+00:00 INFO 1234 msul1: ready: connected

Time with zone, level, process, host (`parent` for the parent), a sentence. Whatever others said stands
in it with its control characters escaped. A log that cannot be written is no reason to stop.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import datetime

logger = logging.getLogger("lonc")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class _Line(logging.Formatter):
    speaker = "parent"

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        text = _CONTROL.sub(lambda match: ascii(match[0])[1:-1], record.getMessage())
        return f"{time} {record.levelname} {record.process} {self.speaker}: {text}"


_line = _Line()


def open_log(level: str) -> None:
    """Write lines of `level` (a word of `loncLogLevel`) and above to standard error."""
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_line)
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())


def speak_for(host: str) -> None:
    """From now on this process is the child of `host`."""
    _line.speaker = host
