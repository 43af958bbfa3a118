"""The hosts live on the whole terminal: asks the daemon at intervals and shows its reports."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lonc.errors import LoncError, NotRunning, UsageError
from lonc.escape import escaped
from lonc.monitoring.health import Health, Level, Verdict, short_time
from lonc.monitoring.status import HostStatus, Report, text_if_known
from lonc.monitoring.text import fit

_BARS = " ▁▂▃▄▅▆▇█"
MINUTES = 20  # shown in a sparkline
STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.CRITICAL: "bold red"}
PLOT = f"last {MINUTES} min"
_HEADINGS = (
    "host", "state", "req/s", "failed", "wait p50", "wait p90", "wait p99", "lond p50", "lond p90",
    "lond p99", "busy", "in flight", "clients", "conn", "waiting", "delayed", PLOT,
)  # fmt: skip
_LEFT_OUT = (  # on a narrow terminal, the first one first
    "wait p90", "lond p90", "clients", PLOT, "wait p50", "failed", "conn", "delayed", "lond p50",
)  # fmt: skip
LINES_AROUND = 5  # lines of the screen that are not hosts: verdict, headings, keys
LONGEST_INTERVAL = 86400  # seconds; select(2) does not take any number

Row = tuple[HostStatus, Verdict, float]  # a host, its verdict, its requests per second

# The order that each key chooses: largest first, names from A to Z.
SORTS: dict[str, tuple[str, Callable[[Row], object]]] = {
    "w": ("worst", lambda row: -row[1].level),
    "h": ("host", lambda row: row[0].host),
    "r": ("rate", lambda row: -row[2]),
    "l": ("latency", lambda row: -(row[0].last_minute or {}).get("p99", 0.0)),
    "m": ("most waiting", lambda row: -(row[0].waiting or 0)),
    "d": ("delayed", lambda row: -(row[0].delayed or 0)),
}
LEAVE = {"q", "\x03", "\x1b", "\x04"}  # q, ^C, Escape, ^D

# A key as the terminal sends it: an escape sequence, or one character.
_KEY = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.|.", re.S)
_UNFINISHED = re.compile(rb"\x1b(\[[0-?]*[ -/]*|O)?\Z")


def sparkline(counts: Sequence[int]) -> str:
    """One bar per count, its height relative to the largest count."""
    most = max(counts, default=0) or 1
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in counts)


class Top:
    """The full screen.

    `current`: returns the daemon's report, or raises LoncError.
    `every`: seconds between two reports, at most a day. Raises UsageError otherwise.
    """

    def __init__(self, current: Callable[[], Report], every: float) -> None:
        if not 0 < every <= LONGEST_INTERVAL:
            raise UsageError(f"--every must be more than 0 and at most {LONGEST_INTERVAL} seconds")
        self._current = current
        self._every = every
        self._sort = "w"
        self._before: tuple[float, Report] | None = None
        self._rates: dict[str, float] = {}

    def run(self) -> None:
        """Show the screen until a key of LEAVE. Raises UsageError if this is not a terminal."""
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError("top needs a terminal; see also `lonc status` and `lonc status --json`")
        console = Console()
        with (
            _unbuffered_keys() as keys,
            Live(console=console, screen=True, auto_refresh=False, transient=True) as live,
        ):
            key: str | None = None
            ask_at = 0.0
            while key not in LEAVE:
                if key in SORTS:
                    self._sort = key
                if time.monotonic() >= ask_at:
                    report, error = self._ask()
                    ask_at = time.monotonic() + self._every
                if report is None:
                    live.update(Text(escaped(error), style="red"), refresh=True)
                else:
                    live.update(self.render(report, console.height, console.width), refresh=True)
                key = keys.next(max(0.0, ask_at - time.monotonic()))

    def _ask(self) -> tuple[Report | None, str]:
        """The report, or None and the reason why there is none."""
        try:
            report = self._current()
        except NotRunning as error:
            return None, str(error)
        except LoncError as error:
            return None, f"lonc does not answer: {error}"
        self.take(report, time.monotonic())
        return report, ""

    def take(self, report: Report, now: float) -> None:
        """Compute each host's requests per second since the last report. `now`: seconds."""
        if self._before is not None:
            then, before = self._before
            counted = {(host.host, host.pid): _ended(host) for host in before.hosts}
            self._rates = {
                host.host: (_ended(host) - counted.get((host.host, host.pid), 0)) / (now - then)
                for host in report.hosts
            }
        self._before = now, report

    def render(self, report: Report, height: int, width: int) -> RenderableType:
        """The screen: as many hosts as fit into `height` lines, and columns as fit into `width`."""
        health = Health(report)
        rows: list[Row] = [
            (host, verdict, self._rates.get(host.host, 0.0)) for host, verdict in health.hosts
        ]
        rows.sort(key=SORTS[self._sort][1])  # type: ignore[arg-type]  # of one kind for each sort
        room = max(1, height - LINES_AROUND)
        table = Table(box=None, padding=(0, 1), header_style="dim", expand=True)
        cells = [_HEADINGS, *(_cells(host, rate) for host, _, rate in rows[:room])]
        columns = fit(list(zip(*cells, strict=True)), _LEFT_OUT, width - 2)
        for heading, *_ in columns:
            right = heading not in ("host", "state", PLOT)
            table.add_column(heading, justify="right" if right else "left", no_wrap=True)
        shown = zip(*(column[1:] for column in columns), strict=True)
        for (_, verdict, _), (name, state, *others) in zip(rows[:room], shown, strict=True):
            table.add_row(
                Text(name), Text(state, style=STYLES[verdict.level]), *(Text(each) for each in others)
            )
        keys = "  ".join(
            f"[reverse]{key}[/reverse] {name}" if key == self._sort else f"[bold]{key}[/bold] {name}"
            for key, (name, _) in SORTS.items()
        )
        hidden = f"  {len(rows) - room} more hosts" if len(rows) > room else ""
        total = sum(rate for _, _, rate in rows)
        return Group(
            Text(health.sentence, style=STYLES[health.level], overflow="ellipsis", no_wrap=True),
            Text(f"{total:.0f} requests/s, lonc {report.version}, pid {report.pid}", style="dim"),
            table,
            Text.from_markup(f"sort by: {keys}  [bold]q[/bold] leave{hidden}"),
        )


def _cells(host: HostStatus, rate: float) -> tuple[str, ...]:
    """A host's line, with a cell for each of _HEADINGS. Waits and times are of the last minute."""
    parts = (host.last_minute_wait, host.last_minute_lond)
    times = [short_time(part[name]) if part else "" for part in parts for name in ("p50", "p90", "p99")]
    return (
        host.host,
        host.shown_state,
        f"{rate:.0f}",
        text_if_known(host.failed),
        *times,
        "" if host.saturated_last_minute is None else f"{host.saturated_last_minute:.0f} s",
        short_time(host.oldest_in_flight) if host.oldest_in_flight else "",
        text_if_known(host.clients),
        text_if_known(host.connected),
        text_if_known(host.waiting),
        text_if_known(host.delayed),
        sparkline((host.done_by_minute or [])[-MINUTES:]),
    )


def _ended(host: HostStatus) -> int:
    """Transactions of the host that have ended since its child started."""
    return (host.done or 0) + (host.failed or 0)


class Keys:
    """Reads single keys from the descriptor `fd`; those that arrive together are queued."""

    sequence_within = 0.05  # seconds; Escape is sent alone, the sequence of another key at once

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._queue: deque[str] = deque()

    def next(self, seconds: float) -> str | None:
        """The next key, or the escape sequence of a special key.

        `seconds`: how long to wait for one. Returns None if there is none; ^D at the end of the input.
        """
        if not self._queue:
            if not self._is_ready(seconds):
                return None
            data = os.read(self._fd, 1024)
            while _UNFINISHED.search(data) and self._is_ready(self.sequence_within):
                if not (more := os.read(self._fd, 1024)):
                    break
                data += more
            self._queue.extend(_KEY.findall(data.decode(errors="replace")) or ["\x04"])
        return self._queue.popleft()

    def _is_ready(self, seconds: float) -> bool:
        return bool(select.select([self._fd], [], [], seconds)[0])


@contextlib.contextmanager
def _unbuffered_keys() -> Iterator[Keys]:
    """The keys of standard input without echo; afterwards the terminal is as it was."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield Keys(fd)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
