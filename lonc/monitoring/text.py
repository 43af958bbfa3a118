"""The status report as a table for a terminal, the worst hosts first."""

from __future__ import annotations

from collections.abc import Sequence

from lonc.monitoring.health import Health, Level, describe_small_pool, short_time
from lonc.monitoring.statistics import MINUTE
from lonc.monitoring.status import HostStatus, Report

MIN_NAME_WIDTH = 4  # characters
SHORT_NAME = 12  # characters of a name for which columns are left out

_HEADINGS = (
    "HOST", "STATE", "FOR", "CONN", "CLIENTS", "WAIT", "OLDEST", "FLIGHT", "DONE", "FAIL", "P50", "P99",
    "DELAY",
)  # fmt: skip
_LEFT_OUT = ("CLIENTS", "P50", "DONE", "FOR", "CONN")  # if lines are too long, the first one first
_LEFT_ALIGNED = 2  # the first columns; they hold words, the others numbers

_COLOURS = {Level.WARNING: "\x1b[33m", Level.CRITICAL: "\x1b[1;31m"}
_PLAIN = "\x1b[0m"


def to_text(report: Report, colour: bool = False, width: int | None = None) -> str:
    """A sentence, a line per host, the sums, and the problems that are not of a single host.

    `colour`: colour degraded hosts by escape sequences.
    `width`: leave out columns and cut the names of hosts so that lines have at most so many characters;
    None: as long as they are.
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
    small_pools = [
        f"{host.host}: {reason}" for host, _ in health.hosts if (reason := describe_small_pool(host))
    ]
    first = f"{summary}: {health.summary}"
    return "\n".join([first, *lines, *small_pools, *health.other_problems]) + "\n"


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
    if host.wrong_keys:
        lines.append(f"connections whose key did not fit in the last hour: {host.wrong_keys}")
    if host.fallbacks_last_hour:
        lines.append(f"insecure connections in the last hour: {host.fallbacks_last_hour}")
    if host.reasons:
        lines.append("failed: " + ", ".join(f"{why} {count}" for why, count in host.reasons.items()))
    for name, times in (
        ("latency in the last minute", host.last_minute),
        ("wait for a connection in the last minute", host.last_minute_wait),
        ("lond's time in the last minute", host.last_minute_lond),
        ("latency in the last hour", host.last_hour),
        ("wait for a connection in the last hour", host.last_hour_wait),
        ("lond's time in the last hour", host.last_hour_lond),
    ):
        if times:
            figures = ", ".join(f"{what} {short_time(seconds)}" for what, seconds in times.items())
            lines.append(f"{name}: {figures}")
    if host.saturated_last_minute is not None:
        busy = f"{host.saturated_last_minute:.0f} of {MINUTE:.0f} s"
        lines.append(f"all connections busy in the last minute: for {busy}")
    if small_pool := describe_small_pool(host):
        lines.append(small_pool)
    if host.last_error:
        lines.append("last error, {}: {}".format(*host.last_error))
    for at, state, why in host.changes or ():
        lines.append(f"{at} {state}" + (f": {why}" if why else ""))
    return "\n".join(f"{host.host}: {line}" for line in lines) + "\n"


def fit(
    columns: Sequence[tuple[str, ...]], left_out: Sequence[str], width: int
) -> list[tuple[str, ...]]:
    """The columns for lines of `width` characters, with two spaces between columns.

    As long as names, in the first column, would have to be cut to less than SHORT_NAME characters, the
    columns whose headings are in `left_out` are left out, the first one first. Then names are cut.
    """
    fitting = list(columns)
    for heading in left_out:
        widths = [max(map(len, column)) for column in fitting]
        if min(widths[0], SHORT_NAME) + sum(2 + each for each in widths[1:]) <= width:
            break
        fitting = [column for column in fitting if column[0] != heading]
    others = sum(2 + max(map(len, column)) for column in fitting[1:])
    room = max(MIN_NAME_WIDTH, width - others)
    names = (name if len(name) <= room else name[: room - 1] + "…" for name in fitting[0])
    return [tuple(names), *fitting[1:]]


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
        _time(host.oldest_in_flight) if host.oldest_in_flight else "-",
        _number(host.done),
        _number(host.failed),
        _time(hour["p50"]) if hour else "-",
        _time(hour["p99"]) if hour else "-",
        _number(host.delayed),
    ]


def _sums(report: Report) -> list[str]:
    def sum_of(name: str) -> str:
        return _number(report.total(name))

    wait, flight = report.oldest_wait, report.oldest_in_flight
    return [
        f"{len(report.hosts)} hosts", "", "", sum_of("connected"), sum_of("clients"), sum_of("waiting"),
        _time(wait) if wait else "-", _time(flight) if flight else "-", sum_of("done"),
        sum_of("failed"), "", "", sum_of("delayed"),
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
    """The rows as lines of at most `width` characters: words left-aligned, numbers right-aligned."""
    columns = list(zip(*rows, strict=True))
    if width is not None:
        columns = fit(columns, _LEFT_OUT, width)
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        cells = [
            text.ljust(size) if number < _LEFT_ALIGNED else text.rjust(size)
            for number, (text, size) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
