"""The status report as a table for a terminal, the worst hosts first."""

from __future__ import annotations

from collections.abc import Sequence

from lonc.monitoring.health import Health, Level, short_time
from lonc.monitoring.status import HostStatus, Report

MIN_NAME_WIDTH = 4  # columns

_HEADINGS = (
    "HOST", "STATE", "FOR", "CONN", "CLIENTS", "WAIT", "OLDEST", "DONE", "FAILED", "P50", "P99",
    "DELAYED",
)  # fmt: skip
_LEFT_ALIGNED = 2  # the first columns; they hold words, the others numbers

_COLOURS = {Level.WARNING: "\x1b[33m", Level.CRITICAL: "\x1b[1;31m"}
_PLAIN = "\x1b[0m"


def to_text(report: Report, colour: bool = False, width: int | None = None) -> str:
    """A sentence, a line per host, the sums, and the problems that are not of a single host.

    `colour`: colour degraded hosts by escape sequences.
    `width`: cut the names of hosts so that lines fit into so many columns; None: do not cut.
    """
    health = Health(report)
    summary = f"lonc {report.version} is {report.phase.value}, pid {report.pid}, since {report.since}"
    rows = [_row(host, health) for host, _ in health.hosts]
    if len(rows) > 1:
        rows.append(_sums(report))
    lines = _aligned([list(_HEADINGS), *rows], width) if rows else []
    if colour:
        for number, (_, verdict) in enumerate(health.hosts, start=1):
            if verdict.level:
                lines[number] = f"{_COLOURS[verdict.level]}{lines[number]}{_PLAIN}"
    return "\n".join([f"{summary}: {health.summary}", *lines, *health.other_problems]) + "\n"


def host_to_text(host: HostStatus, health: Health) -> str:
    """All details of one host, one per line."""
    lines = [host.to_text()]
    if host.mode is not None:
        lond = "" if host.lond_version is None else f", with lond {host.lond_version}"
        lines.append(f"last key exchange: mode {host.mode}{lond}")
    if host.oldest_in_flight:
        lines.append(f"oldest request in flight: for {short_time(host.oldest_in_flight)}")
    if host.ping_known is False:
        lines.append("connections out of step are not found: lond does not know ping")
    if host.out_of_step:
        lines.append(f"connections out of step in the last hour: {host.out_of_step}")
    if host.reasons:
        lines.append("failed: " + ", ".join(f"{why} {count}" for why, count in host.reasons.items()))
    for name, times in (("minute", host.last_minute), ("hour", host.last_hour)):
        if times:
            latencies = ", ".join(f"{what} {short_time(seconds)}" for what, seconds in times.items())
            lines.append(f"latency in the last {name}: {latencies}")
    if host.last_error:
        lines.append("last error, {}: {}".format(*host.last_error))
    for at, state, why in host.changes or ():
        lines.append(f"{at} {state}" + (f": {why}" if why else ""))
    return "\n".join(f"{host.host}: {line}" for line in lines) + "\n"


def _row(host: HostStatus, health: Health) -> list[str]:
    hour = host.last_hour or {}
    return [
        host.host,
        host.shown_state,
        "-" if host.state_since is None else _time(health.age(host.state_since)),
        _number(host.connected),
        _number(host.clients),
        _number(host.waiting),
        _time(host.oldest_wait) if host.oldest_wait else "-",
        _number(host.done),
        _number(host.failed),
        _time(hour["p50"]) if hour else "-",
        _time(hour["p99"]) if hour else "-",
        _number(host.delayed),
    ]


def _sums(report: Report) -> list[str]:
    def sum_of(name: str) -> str:
        return _number(report.total(name))

    oldest = report.oldest_wait
    return [
        f"{len(report.hosts)} hosts", "", "", sum_of("connected"), sum_of("clients"), sum_of("waiting"),
        _time(oldest) if oldest else "-", sum_of("done"), sum_of("failed"), "", "",
        sum_of("delayed"),
    ]  # fmt: skip


def _number(count: int | None) -> str:
    """The number in at most five characters; - if it is unknown."""
    if count is None:
        return "-"
    if count <= 99_999:
        return str(count)
    number, units = float(count), iter("kMGTPEZY")
    unit = ""
    while number >= 999.5:
        number, unit = number / 1000, next(units)
    return f"{number:.1f}{unit}" if number < 99.95 else f"{number:.0f}{unit}"


def _time(seconds: float) -> str:
    """The duration in at most five characters."""
    return short_time(seconds).replace(" ", "")


def _aligned(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The rows as lines: words left-aligned, numbers right-aligned, names cut to fit into `width`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        too_wide = sum(widths) + 2 * (len(widths) - 1) - width
        widths[0] = max(MIN_NAME_WIDTH, widths[0] - max(0, too_wide))
    lines = []
    for name, *others in rows:
        cut = name if len(name) <= widths[0] else name[: widths[0] - 1] + "…"
        cells = [
            text.ljust(size) if number < _LEFT_ALIGNED else text.rjust(size)
            for number, (text, size) in enumerate(zip([cut, *others], widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
