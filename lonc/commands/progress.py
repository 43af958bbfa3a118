"""The progress of `lonc send -`, drawn by the library rich where it is installed; else there is none."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.progress

SHOWN_FROM = 100  # replies; fewer are over before a bar can be read


class Progress:
    """A bar on standard error.

    It appears after SHOWN_FROM replies, if standard error is a terminal and standard output is not:
    on a terminal the replies themselves show the progress.
    """

    def __init__(self) -> None:
        self._bar = _rich_bar() if sys.stderr.isatty() and not sys.stdout.isatty() else None
        self._read = 0  # bytes of requests
        self._size: int | None = None  # bytes of the input; None: unknown
        self._replies = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def count_requests(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the lines of standard input and count their bytes."""
        about = os.fstat(sys.stdin.fileno())
        self._size = about.st_size if stat.S_ISREG(about.st_mode) else None
        for line in lines:
            self._read += len(line)
            yield line

    def replied(self) -> None:
        """Count one reply."""
        self._replies += 1
        if self._bar is None or self._replies < SHOWN_FROM:
            return
        if not self._bar.tasks:
            self._bar.add_task("", total=self._size, replies=0)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=self._read, replies=self._replies)


def _rich_bar() -> rich.progress.Progress | None:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    except ImportError:
        return None
    replies = TextColumn("{task.fields[replies]} replies")
    console = Console(stderr=True)
    return Progress(BarColumn(), TaskProgressColumn(), replies, console=console, transient=True)
