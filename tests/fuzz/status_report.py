"""A status report as a line, and every text that is made of it."""

from datetime import datetime, timezone

from prometheus_client import CollectorRegistry, generate_latest

from lonc.commands import status
from lonc.monitoring import html, text
from lonc.monitoring.health import DEFAULT, Health
from lonc.monitoring.prometheus import StatusCollector
from lonc.monitoring.statistics import MINUTES, REPORTED_BOUNDS
from lonc.monitoring.status import HostStatus, Phase, Report
from lonc.monitoring.top import Top

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)

_AT = "2026-11-24T02:00:00+00:00"
_TIMES = {"p50": 0.1, "p90": 0.1, "p99": 2.5, "max": 3}
_COUNTS = [1] * len(REPORTED_BOUNDS)
_HOST = HostStatus(
    "l1", "ready", _AT, connections={"Idle": 1}, max_connections=5, clients=1, waiting=1,
    oldest_wait=0.5,
    oldest_in_flight=30, done=1, failed=1, reasons={"host dead": 1}, sent=1, received=1,
    last_minute=_TIMES, last_hour=_TIMES, last_minute_wait=_TIMES, last_hour_wait=_TIMES,
    last_minute_lond=_TIMES, last_hour_lond=_TIMES, seconds=1.5, wait_seconds=0.5, lond_seconds=1,
    durations=_COUNTS, wait_durations=_COUNTS, lond_durations=_COUNTS, saturated_last_minute=59.9,
    saturated_seconds=60, done_by_minute=[1] * MINUTES, failed_by_minute=[1] * MINUTES, delayed=1,
    oldest_delayed=1, last_error=[_AT, "why"], changes=[[_AT, "ready", None]], since=_AT, pid=2,
    memory=1,
    version="1",
)  # fmt: skip
REPORT = Report(Phase.RUNNING, 1, "1", _AT, [_HOST, HostStatus("l2", "DEAD")], {"l3": 1}).to_line()

WORDS = [
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"true", b"-1", b"0", b"1e999", b"NaN",
    b"9" * 400, b'"\\ud800"', b'"\\u001b[2J"', b"[" * 2000, b'{"":' * 2000, b'"0001-01-01T00:00:00"',
    b'"9999-12-31T23:59:59-23:59"', b"1e17", b'"host":', b'"state":"DEAD"', b'"state":"not answering"',
    REPORT,
]  # fmt: skip


def status_report(data):
    """A line is parsed, or raises ValueError.

    A report survives being written and parsed again, and can be shown in every format.
    """
    for line in (data, _with(data)):
        try:
            report = Report.from_line(line)
        except ValueError:
            continue
        assert Report.from_line(report.to_line()) == report
        _show(report)
        for host in report.hosts:
            assert HostStatus.from_line(host.to_line()) == host


def _with(data):
    """REPORT with a range replaced by `data[4:]`; the first four bytes give its start and length."""
    begin = int.from_bytes(data[:2], "big") % len(REPORT)
    end = begin + int.from_bytes(data[2:4], "big") % len(REPORT)
    return REPORT[:begin] + data[4:] + REPORT[end:]


def _show(report):
    health = Health(report, now=NOW)
    texts = [text.to_text(report, colour=True), html.render(report, NOW), health.sentence]
    texts += [text.host_to_text(host, health) for host in report.hosts]
    texts += status._performance(report, DEFAULT)
    for shown in texts:
        shown.encode()
    registry = CollectorRegistry()
    registry.register(StatusCollector(lambda: report))
    generate_latest(registry)
    top = Top(lambda: report, every=1)
    for now in (0.0, 1.0):
        top.take(report, now)
    for top._sort in "whrlmd":
        top.render(report, height=30, width=80)
