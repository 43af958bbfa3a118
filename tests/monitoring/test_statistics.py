import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lonc.monitoring.statistics import BOUNDS, SLOT, Reason, Statistics


@pytest.fixture
def statistics():
    return Statistics(1000.0)


def reply(statistics, now, seconds, count=1):
    for _ in range(count):
        statistics.replied(now, now - seconds, 10, 100)


def test_bounds_grow_by_about_a_quarter_and_include_the_usual_ones():
    assert all(1.2 < high / low < 1.29 for low, high in itertools.pairwise(BOUNDS))
    assert {0.001, 0.0025, 0.005, 0.1, 1.0, 2.5, 100.0} <= set(BOUNDS)


def test_counters(statistics):
    reply(statistics, 1001.0, 0.5, count=3)
    statistics.failed_for(1002.0, Reason.DEAD, 2)
    statistics.failed_for(1002.0, Reason.LOST, 1)
    assert (statistics.done, statistics.failed, statistics.sent, statistics.received) == (3, 3, 30, 300)
    assert statistics.seconds == pytest.approx(1.5)
    assert statistics.reasons == {Reason.DEAD: 2, Reason.LOST: 1}


def test_connections_out_of_step_are_counted_for_an_hour(statistics):
    assert statistics.report(1000.0)["out_of_step"] == 0
    statistics.failed_for(1001.0, Reason.OUT_OF_STEP, 1)
    statistics.failed_for(1002.0, Reason.LOST, 1)
    statistics.failed_for(1900.0, Reason.OUT_OF_STEP, 1)
    assert statistics.report(1900.0)["out_of_step"] == 2
    assert statistics.report(5000.0)["out_of_step"] == 1
    assert statistics.report(6000.0)["out_of_step"] == 0
    assert statistics.reasons[Reason.OUT_OF_STEP] == 2


@given(st.lists(st.floats(1e-6, 900), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_never_too_small_and_at_most_a_quarter_too_large(times, share):
    statistics = Statistics(0.0)
    for seconds in times:
        statistics.replied(1.0, 1.0 - seconds, 1, 1)
    took = sorted(1.0 - (1.0 - seconds) for seconds in times)
    exact = next(each for number, each in enumerate(took, 1) if number >= share * len(took))
    estimate = statistics.last_minute(1.0).percentile(share)
    assert exact <= estimate <= max(exact * 1.29, BOUNDS[0])
    assert statistics.last_minute(1.0).longest == took[-1]


def test_without_replies_there_is_no_time(statistics):
    assert statistics.last_minute(1000.0).percentile(0.99) == 0.0


def test_a_latency_beyond_all_bounds(statistics):
    reply(statistics, 1000.0, 5000.0)
    assert statistics.last_minute(1000.0).percentile(0.5) == 5000.0


def test_a_reply_leaves_the_last_minute_but_not_the_last_hour(statistics):
    reply(statistics, 1000.0, 0.01, count=5)
    statistics.failed_for(1000.0, Reason.LOST, 2)
    for later, minute, hour in ((0, 5, 5), (59, 5, 5), (66, 0, 5), (3500, 0, 5), (3700, 0, 0)):
        assert sum(statistics.last_minute(1000.0 + later).replies) == minute
        assert sum(statistics.last_hour(1000.0 + later).replies) == hour
        assert statistics.last_hour(1000.0 + later).failures == (2 if hour else 0)
    assert sum(statistics.all_time(1e6).replies) == 5


def test_a_reply_counts_for_a_minute_and_a_slot(statistics):
    reply(statistics, 1000.0, 0.01)
    for now in (1006.0, 1012.0, 1064.9):
        assert sum(statistics.last_minute(now).replies) == 1
    assert sum(statistics.last_minute(1065.0).replies) == 0


def test_the_version_changes_when_a_reply_leaves_the_last_minute(statistics):
    reply(statistics, 1000.0, 0.01)
    before = statistics.version(1062.0)
    assert statistics.report(1062.0)["last_minute"] is not None
    assert statistics.report(1066.0)["last_minute"] is None
    assert statistics.version(1066.0) != before


def test_each_of_the_last_sixty_minutes(statistics):
    for minute in range(100):
        now = 1000.0 + 60 * minute
        reply(statistics, now, 0.01, count=minute)
        statistics.failed_for(now, Reason.LOST, 1)
    replies, failures = statistics.by_minutes(1000.0 + 60 * 99)
    assert replies == list(range(40, 100))
    assert failures == [1] * 60


def test_the_sums_are_those_of_recent_replies():
    rng = random.Random(3)
    statistics, came, now = Statistics(0.0), [], 0.0
    for _ in range(3000):
        now += rng.choice([0.0, 0.1, 1.0, 7.0, 61.0])
        reply(statistics, now, 0.01)
        came.append(now)
    minute, hour = (statistics.last_minute, 60, SLOT), (statistics.last_hour, 3600, 60)
    for window, seconds, slots in (minute, hour):
        counted = sum(window(now).replies)
        assert sum(at > now - seconds + slots for at in came) <= counted
        assert counted <= sum(at > now - seconds - slots - SLOT for at in came)


def test_the_version_changes_with_the_report_and_seldom_otherwise():
    rng = random.Random(5)
    statistics, now, reports = Statistics(0.0), 0.0, {}
    distinct = set()
    for _ in range(2000):
        now += rng.choice([1.0, 1.0, 1.0, 5.0, 300.0])
        if rng.random() < 0.05:
            reply(statistics, now, 0.01)
        version = statistics.version(now)
        report = str(statistics.report(now))
        assert reports.setdefault(version, report) == report
        distinct.add(report)
    assert len(distinct) <= len(reports) < 1.5 * len(distinct)


def test_a_long_pause_costs_no_time(statistics):
    reply(statistics, 1000.0, 0.01)
    reply(statistics, 1e9, 0.01)
    assert sum(statistics.last_hour(1e9).replies) == 1
