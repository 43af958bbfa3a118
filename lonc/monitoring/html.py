"""The status page: `index.html`, which needs neither network nor scripts, and `status.json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from lonc.errors import LoncError
from lonc.monitoring.health import Health, Level, Verdict, short_time
from lonc.monitoring.status import HostStatus, Report, text_if_known
from lonc.runtime.directory import Directory

MODE = 0o644  # the web server may run as another user
MAX_CHANGES = 30  # on the page, of all hosts together
RATE_MINUTES = 5  # the last minutes, over which the rate is computed
WIDTH, HEIGHT, STEP = 180, 32, 3  # of a plot, and of one minute in it; pixels

_HEADINGS = (
    "host", "state", "for", "last hour", "a minute", "failed", "p50", "p99", "wait p99", "busy",
    "waiting", "in flight", "delayed", "last error",
)  # fmt: skip


def files(report: Report) -> dict[str, bytes]:
    """The content of both files, by their names."""
    page = render(report, datetime.now().astimezone())
    return {"status.json": report.to_line(), "index.html": page.encode()}


def write(contents: dict[str, bytes], directory: Directory) -> None:
    """Write the files into `directory`, each atomically. Raises LoncError."""
    try:
        for name, content in contents.items():
            directory.replace(name, content, MODE)
    except OSError as error:
        raise LoncError(f"cannot write {directory.path}: {error.strerror}") from error


def render(report: Report, now: datetime) -> str:
    """The page. All text of hosts and londs is escaped. `now`: with its time zone."""
    health = Health(report, now=now)
    level = health.level.name.lower()
    rows = "\n".join(_row(host, verdict, health) for host, verdict in health.hosts)
    headings = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    lonc = f"lonc {report.version} is {report.phase.value}, pid {report.pid}, since {report.since}"
    style = Path(__file__).with_name("page.css").read_text()
    changes = "\n".join(f"<li>{escape(change)}</li>" for change in _changes(report.hosts))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta http-equiv="refresh" content="60">
<link rel="icon" href="data:,">
<title>lonc: {escape(health.sentence)}</title>
<style>
{style}</style>
</head>
<body>
<h1>lonc</h1>
<p class="verdict {level}"><strong>{health.level.name}</strong>
<span>{escape(health.sentence)}</span></p>
<p class="faint">{escape(lonc)}. This page was made at {now.isoformat(timespec="seconds")}.</p>
<table>
<thead><tr>{headings}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<h2>Latest changes of state</h2>
<ol>
{changes}
</ol>
</body>
</html>
"""


def _row(host: HostStatus, verdict: Verdict, health: Health) -> str:
    level = "" if verdict.level is Level.OK else f" {verdict.level.name.lower()}"
    hour, wait = host.last_hour or {}, host.last_hour_wait or {}
    done, failed = host.done_by_minute or [], host.failed_by_minute or []
    error = "" if host.last_error is None else "{}: {}".format(*host.last_error)
    cells = [
        ("host", "host", escape(host.host)),
        ("state", "state" + level, escape(host.shown_state)),
        ("for", "", "" if host.state_since is None else short_time(health.age(host.state_since))),
        ("last hour", "", _plot(host.host, done, failed)),
        ("a minute", "", f"{sum(done[-RATE_MINUTES:]) / RATE_MINUTES:.0f}" if done else ""),
        ("failed", "", str(sum(failed)) if failed else ""),
        ("p50", "", short_time(hour["p50"]) if hour else ""),
        ("p99", "", short_time(hour["p99"]) if hour else ""),
        ("wait p99", "", short_time(wait["p99"]) if wait else ""),
        ("busy", "", f"{host.saturated_last_minute:.0f} s" if host.saturated_last_minute else ""),
        ("waiting", "", text_if_known(host.waiting)),
        ("in flight", "", short_time(host.oldest_in_flight) if host.oldest_in_flight else ""),
        ("delayed", "", text_if_known(host.delayed)),
        ("last error", "error", escape(error)),
    ]
    tds = (f'<td data-label="{label}" class="{kind}">{text}</td>' for label, kind, text in cells)
    return f"<tr>{''.join(tds)}</tr>"


def _plot(host: str, done: Sequence[int], failed: Sequence[int]) -> str:
    """An SVG of the last hour: a bar per minute for replies, stacked on one for failures."""
    most = max((sum(each) for each in zip(done, failed, strict=False)), default=0)
    if not most:
        return ""
    label = f"{host}: {sum(done)} replies and {sum(failed)} failures in the last hour"

    def bars(heights: Iterator[tuple[float, float]]) -> str:
        return "".join(
            f"M{number * STEP} {HEIGHT - bottom:.1f}v-{height:.1f}h{STEP - 1}v{height:.1f}z"
            for number, (bottom, height) in enumerate(heights)
            if height
        )

    scaled = [
        (HEIGHT * one / most, HEIGHT * other / most) for one, other in zip(done, failed, strict=False)
    ]
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>"
        f'<path class="done" d="{bars((lost, replied) for replied, lost in scaled)}"/>'
        f'<path class="failed" d="{bars((0.0, lost) for _, lost in scaled)}"/></svg>'
    )


def _changes(hosts: Sequence[HostStatus]) -> list[str]:
    """The most recent changes of all hosts, the latest first."""
    changes = [
        (at or "", number, f"{at} {host.host}: {state}" + (f": {why}" if why else ""))
        for host in hosts
        for number, (at, state, why) in enumerate(host.changes or ())
    ]
    # Times sort as text, since all are in the time zone of this machine.
    return [text for *_, text in sorted(changes, reverse=True)[:MAX_CHANGES]]
