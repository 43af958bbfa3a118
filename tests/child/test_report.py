"""The status report of a child, from fake parts."""

import os
from types import SimpleNamespace

import pytest

from lonc import __version__
from lonc.child.reachability import HostState
from lonc.child.report import ReportWriter
from lonc.monitoring.statistics import Statistics
from lonc.monitoring.status import HostStatus

AT = "2026-11-24T02:00:00+00:00"
LATER = "2026-11-24T02:00:07+00:00"


class Pool(list):
    """Connections, each with a state."""

    state = HostState.READY
    waiting = 0
    attempting = 0
    oldest_wait = 0.0
    busy = 0
    oldest_in_flight = 0.0

    @property
    def census(self):
        return self.state, len(self)


class Parts:
    """The parts of a child that a report reads."""

    def __init__(self):
        self.loop = SimpleNamespace(now=1000.0)
        self.statistics = Statistics(self.loop.now)
        self.history = SimpleNamespace(version=0, changes=[(AT, "ready", None)], last_error=None)
        self.pool = Pool()
        self.listener = SimpleNamespace(clients={})
        self.replay = SimpleNamespace(waiting=0, oldest=None)
        self.writer = ReportWriter(
            self.loop,
            SimpleNamespace(name="l1"),
            self.statistics,
            self.history,
            self.pool,
            self.listener,
            self.replay,
            max_connections=5,
        )

    def report(self):
        return HostStatus.from_line(self.writer.line())

    def add_connection(self, state):
        self.pool.append(SimpleNamespace(protocol=SimpleNamespace(state=SimpleNamespace(value=state))))


@pytest.fixture
def parts():
    return Parts()


def test_each_part_gives_its_figures(parts):
    for state in ("Idle", "Idle", "ReceivingReply"):
        parts.add_connection(state)
    parts.pool.waiting, parts.pool.oldest_wait = 4, 1.23456
    parts.pool.oldest_in_flight = 2.34567
    parts.listener.clients = {"a": None, "b": None}
    parts.replay.waiting, parts.replay.oldest = 3, 17
    parts.writer.ping_known = False
    parts.writer.mode, parts.writer.lond_version = "ssl", "2.11"
    parts.history.last_error = (AT, "refused")
    parts.statistics.replied(parts.loop.now, parts.loop.now - 1, parts.loop.now - 0.75, 5, 7)
    parts.statistics.saturated(parts.loop.now - 2)
    parts.statistics.desaturated(parts.loop.now)
    report = parts.report()
    assert (report.host, report.state, report.state_since) == ("l1", "ready", AT)
    assert report.connections == {"Idle": 2, "ReceivingReply": 1}
    assert (report.clients, report.waiting, report.oldest_wait) == (2, 4, 1.235)
    assert report.oldest_in_flight == 2.346
    assert (report.delayed, report.oldest_delayed) == (3, 17)
    assert report.ping_known is False
    assert (report.mode, report.lond_version) == ("ssl", "2.11")
    assert report.last_error == [AT, "refused"]
    assert report.changes == [[AT, "ready", None]]
    assert (report.max_connections, report.saturated_last_minute, report.saturated_seconds) == (5, 2, 2)
    assert (report.seconds, report.wait_seconds, report.lond_seconds) == (1, 0.25, 0.75)
    assert report.last_minute_wait["p50"] == report.last_hour_wait["max"] == 0.25
    assert report.last_minute_lond["p99"] == report.last_hour_lond["max"] == 0.75
    assert report.wait_durations[-1] == report.lond_durations[-1] == 1
    assert (report.done, report.sent, report.received) == (1, 5, 7)
    assert (report.pid, report.version) == (os.getpid(), __version__)
    assert report.memory > 0


def test_the_state_has_lasted_since_the_last_change(parts):
    parts.history.changes.append((LATER, "DEAD", "refused"))
    assert parts.report().state_since == LATER


def test_while_nothing_changes_the_line_is_the_same_object(parts):
    line = parts.writer.line()
    assert parts.writer.line() is line
    parts.loop.now += 1
    assert parts.writer.line() is line


def reply(parts):
    parts.statistics.replied(parts.loop.now, parts.loop.now, parts.loop.now, 1, 1)


def error(parts):
    parts.history.version += 1
    parts.history.last_error = (AT, "refused")


def client(parts):
    parts.listener.clients["a"] = None


def delayed(parts):
    parts.replay.waiting += 1


def connection(parts):
    parts.add_connection("Idle")


@pytest.mark.parametrize("change", [reply, error, client, delayed, connection])
def test_each_change_is_in_the_next_line(parts, change):
    before = parts.report()
    change(parts)
    assert parts.report() != before


def _waits(pool):
    pool.waiting = 1


def _is_attempted(pool):
    pool.attempting = 1


def _is_busy(pool):
    pool.busy = 1


@pytest.mark.parametrize("state", [_waits, _is_attempted, _is_busy])
def test_waiting_requests_grow_older_in_the_report(parts, state):
    state(parts.pool)
    parts.pool.oldest_wait = 1.0
    assert parts.report().oldest_wait == 1.0
    parts.pool.oldest_wait = 2.0
    assert parts.report().oldest_wait == 1.0  # in the same turn of the loop
    parts.loop.now += 1
    assert parts.report().oldest_wait == 2.0
