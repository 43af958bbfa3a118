"""The hosts live on a full screen: asks the daemon again and again, and shows what has changed."""

from __future__ import annotations

import contextlib
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lonc.errors import LoncError, NotRunning, UsageError
from lonc.monitoring.health import Health, Level, Verdict, short_time
from lonc.monitoring.status import HostStatus, Report, if_known

_BARS = " ▁▂▃▄▅▆▇█"
MINUTES = 20  # in a sparkline
STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.CRITICAL: "bold red"}
LINES_AROUND = 5  # the verdict, headings and keys

Row = tuple[HostStatus, Verdict, float]  # the last is its requests a second

# What a key sorts by; the largest first, but names.
SORTS: dict[str, tuple[str, Callable[[Row], object]]] = {
    "w": ("worst", lambda row: -row[1].level),
    "h": ("host", lambda row: row[0].host),
    "r": ("rate", lambda row: -row[2]),
    "l": ("latency", lambda row: -(row[0].last_minute or {}).get("p99", 0.0)),
    "m": ("most waiting", lambda row: -(row[0].waiting or 0)),
    "d": ("delayed", lambda row: -(row[0].delayed or 0)),
}
LEAVE = {"q", "\x03", "\x1b", "\x04"}


def sparkline(counts: Sequence[int]) -> str:
    """A character for each, as high as it is large."""
    most = max(counts, default=0) or 1
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in counts)


class Top:
    """`current()` reports how lonc is doing, or raises LoncError; it is asked `every` few seconds."""

    def __init__(self, current: Callable[[], Report], every: float) -> None:
        if not every > 0:
            raise UsageError("--every wants a number of seconds")
        self._current = current
        self._every = every
        self._sort = "w"
        self._before: tuple[float, Report] | None = None
        self._rates: dict[str, float] = {}

    def run(self) -> None:
        """Until a key says to leave, or ^C. Raises UsageError without a terminal."""
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UsageError("top wants a terminal; there are `lonc status` and `lonc status --json`")
        console = Console()
        report: Report | None = None
        with (
            _keys() as next_key,
            Live(console=console, screen=True, auto_refresh=False, transient=True) as live,
        ):
            key: str | None = ""
            while key not in LEAVE:
                if key in SORTS:
                    self._sort = key
                elif key is None or report is None:
                    report, trouble = self._ask()
                if report is None:
                    live.update(Text(trouble, style="red"), refresh=True)
                else:
                    live.update(self.render(report, console.height), refresh=True)
                key = next_key(self._every)

    def _ask(self) -> tuple[Report | None, str]:
        """What there is to be shown, or why there is nothing."""
        try:
            report = self._current()
        except NotRunning as error:
            return None, str(error)
        except LoncError as error:
            return None, f"lonc does not answer: {error}"
        self.take(report, time.monotonic())
        return report, ""

    def take(self, report: Report, now: float) -> None:
        """Work out the rates since the report before."""
        if self._before is not None:
            then, before = self._before
            counted = {(host.host, host.pid): _ended(host) for host in before.hosts}
            self._rates = {
                host.host: (_ended(host) - counted.get((host.host, host.pid), 0)) / (now - then)
                for host in report.hosts
            }
        self._before = now, report

    def render(self, report: Report, height: int) -> RenderableType:
        """As many hosts as there is room for."""
        health = Health(report)
        rows: list[Row] = [
            (host, verdict, self._rates.get(host.host, 0.0)) for host, verdict in health.hosts
        ]
        rows.sort(key=SORTS[self._sort][1])  # type: ignore[arg-type]  # of one kind for each sort
        room = max(1, height - LINES_AROUND)
        table = Table(box=None, padding=(0, 1), header_style="dim", expand=True)
        table.add_column("host", no_wrap=True)
        table.add_column("state", no_wrap=True)
        for heading in ("req/s", "failed", "p50", "p99", "clients", "conn", "waiting", "delayed"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column(f"last {MINUTES} min", no_wrap=True)
        for host, verdict, rate in rows[:room]:
            minute = host.last_minute or {}
            table.add_row(
                Text(host.host),
                Text(host.shown_state, style=STYLES[verdict.level]),
                f"{rate:.0f}",
                if_known(host.failed),
                short_time(minute["p50"]) if minute else "",
                short_time(minute["p99"]) if minute else "",
                if_known(host.clients),
                if_known(host.connected),
                if_known(host.waiting),
                if_known(host.delayed),
                sparkline((host.done_by_minute or [])[-MINUTES:]),
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


def _ended(host: HostStatus) -> int:
    return (host.done or 0) + (host.failed or 0)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """Yields what waits for a key, so many seconds; the terminal is as it was afterwards."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def next_key(seconds: float) -> str | None:
        ready, _, _ = select.select([fd], [], [], seconds)
        return sys.stdin.read(1) or "\x04" if ready else None

    try:
        tty.setcbreak(fd)
        yield next_key
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
