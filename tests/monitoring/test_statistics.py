import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lonc.monitoring.statistics import BOUNDS, REPORTED_BOUNDS, SLOT, Reason, Statistics


@pytest.fixture
def statistics():
    return Statistics(1000.0)


def reply(statistics, now, seconds, count=1):
    """So many replies to requests that did not wait."""
    for _ in range(count):
        statistics.replied(now, now - seconds, now - seconds, 10, 100)


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


def test_connections_whose_key_did_not_fit_are_counted_for_an_hour(statistics):
    assert statistics.report(1000.0)["wrong_keys"] == 0
    for now in (1001.0, 1900.0):
        statistics.wrong_key(now)
    assert statistics.report(1900.0)["wrong_keys"] == 2
    assert statistics.report(5000.0)["wrong_keys"] == 1
    assert statistics.report(6000.0)["wrong_keys"] == 0


def test_connections_out_of_step_are_counted_for_an_hour(statistics):
    assert statistics.report(1000.0)["out_of_step"] == 0
    statistics.failed_for(1001.0, Reason.OUT_OF_STEP, 1)
    statistics.failed_for(1002.0, Reason.LOST, 1)
    statistics.failed_for(1900.0, Reason.OUT_OF_STEP, 1)
    assert statistics.report(1900.0)["out_of_step"] == 2
    assert statistics.report(5000.0)["out_of_step"] == 1
    assert statistics.report(6000.0)["out_of_step"] == 0
    assert statistics.reasons[Reason.OUT_OF_STEP] == 2


def test_fallbacks_to_insecure_are_counted_since_the_start_and_for_an_hour(statistics):
    def counts(now):
        report = statistics.report(now)
        return report["fallbacks"], report["fallbacks_last_hour"]

    assert counts(1000.0) == (0, 0)
    version = statistics.version(1000.0)
    statistics.fell_back(1001.0)
    statistics.fell_back(1900.0)
    assert statistics.version(1900.0) != version
    assert counts(1900.0) == (2, 2)
    assert counts(5000.0) == (2, 1)
    assert counts(6000.0) == (2, 0)


@given(st.lists(st.floats(1e-6, 900), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_never_too_small_and_at_most_a_quarter_too_large(times, share):
    statistics = Statistics(0.0)
    for seconds in times:
        statistics.replied(1.0, 1.0 - seconds, 1.0 - seconds, 1, 1)
    took = sorted(1.0 - (1.0 - seconds) for seconds in times)
    exact = next(each for number, each in enumerate(took, 1) if number >= share * len(took))
    estimate = statistics.last_minute(1.0).latencies().percentile(share)
    assert exact <= estimate <= max(exact * 1.29, BOUNDS[0])
    assert statistics.last_minute(1.0).latencies().longest == took[-1]


def test_without_replies_there_is_no_time(statistics):
    assert statistics.last_minute(1000.0).latencies().percentile(0.99) == 0.0


def test_a_latency_beyond_all_bounds(statistics):
    reply(statistics, 1000.0, 5000.0)
    assert statistics.last_minute(1000.0).latencies().percentile(0.5) == 5000.0


def test_a_reply_leaves_the_last_minute_but_not_the_last_hour(statistics):
    reply(statistics, 1000.0, 0.01, count=5)
    statistics.failed_for(1000.0, Reason.LOST, 2)
    for later, minute, hour in ((0, 5, 5), (59, 5, 5), (66, 0, 5), (3500, 0, 5), (3700, 0, 0)):
        assert statistics.last_minute(1000.0 + later).latencies().total == minute
        assert statistics.last_hour(1000.0 + later).latencies().total == hour
        assert statistics.last_hour(1000.0 + later).failures == (2 if hour else 0)
    assert statistics.all_time(1e6).latencies().total == 5


def test_a_reply_counts_for_a_minute_and_a_slot(statistics):
    reply(statistics, 1000.0, 0.01)
    for now in (1006.0, 1012.0, 1064.9):
        assert statistics.last_minute(now).latencies().total == 1
    assert statistics.last_minute(1065.0).latencies().total == 0


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
        counted = window(now).latencies().total
        assert sum(at > now - seconds + slots for at in came) <= counted
        assert counted <= sum(at > now - seconds - slots - SLOT for at in came)


def test_the_version_changes_with_the_report_and_seldom_otherwise():
    rng = random.Random(5)
    statistics, now, reports = Statistics(0.0), 0.0, {}
    distinct, busy = set(), False
    for _ in range(2000):
        now += rng.choice([1.0, 1.0, 1.0, 5.0, 300.0])
        if rng.random() < 0.05:
            reply(statistics, now, 0.01)
        if not busy and rng.random() < 0.02:
            busy = True
            statistics.saturated(now)
        elif busy and rng.random() < 0.3:
            busy = False
            statistics.desaturated(now)
        version = statistics.version(now)
        report = str(statistics.report(now))
        assert reports.setdefault(version, report) == report
        distinct.add(report)
    assert len(distinct) <= len(reports) < 1.5 * len(distinct)


def test_a_long_pause_costs_no_time(statistics):
    reply(statistics, 1000.0, 0.01)
    reply(statistics, 1e9, 0.01)
    assert statistics.last_hour(1e9).latencies().total == 1


def test_a_latency_is_the_wait_and_the_time_of_lond(statistics):
    statistics.replied(1004.0, 1000.0, 1003.0, 10, 100)
    minute = statistics.last_minute(1004.0)
    assert minute.latencies().percentile(0.5) == minute.latencies().longest == 4.0
    assert minute.waits().percentile(0.5) == minute.waits().longest == 3.0
    assert minute.lond_times().percentile(0.5) == minute.lond_times().longest == 1.0
    assert (statistics.wait_seconds, statistics.lond_seconds, statistics.seconds) == (3.0, 1.0, 4.0)


def test_a_request_that_found_a_free_connection_has_waited_for_nothing(statistics):
    reply(statistics, 1000.0, 0.5, count=8)
    for _ in range(2):
        statistics.replied(1000.0, 997.0, 999.0, 10, 100)
    report = statistics.report(1000.0)
    assert report["last_minute_wait"] == {"p50": 0.0, "p90": 2.0, "p99": 2.0, "max": 2.0}
    assert report["last_minute_lond"] == {"p50": 0.5, "p90": 1.0, "p99": 1.0, "max": 1.0}
    assert report["last_minute"] == {"p50": 0.5, "p90": 3.0, "p99": 3.0, "max": 3.0}
    below = dict(zip(REPORTED_BOUNDS, report["wait_durations"], strict=True))
    assert (below[1e-05], below[1.0], below[2.5]) == (8, 8, 10)
    below = dict(zip(REPORTED_BOUNDS, report["lond_durations"], strict=True))
    assert (below[0.25], below[0.5], below[1.0]) == (0, 8, 10)


@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 60), st.floats(0, 60)), max_size=200))
def test_each_reply_is_in_all_three_histograms_of_each_period(replies):
    statistics, now, late = Statistics(0.0), 0.0, []
    for at, wait, lond in sorted(replies):
        now = at
        started = at - lond
        since = started - wait
        statistics.replied(at, since, started, 1, 1)
        late.append((at, at - since, started - since, at - started))
    for slot, seconds in ((statistics.last_minute(now), 60), (statistics.last_hour(now), 3600)):
        parts = slot.latencies(), slot.waits(), slot.lond_times()
        assert len({each.total for each in parts}) == 1
        counted = late[len(late) - parts[0].total :]
        assert all(at > now - seconds - 60 - SLOT for at, *_ in counted)
        for number, part in enumerate(parts, 1):
            assert part.longest == max((each[number] for each in counted), default=0.0)
            exact = sorted(each[number] for each in counted)
            if exact:
                told, middle = part.percentile(0.5), exact[(len(exact) + 1) // 2 - 1]
                assert middle <= told <= max(middle * 1.29, BOUNDS[0])


def test_without_a_wait_there_are_no_buckets_for_waits(statistics):
    for second in range(7200):
        reply(statistics, 1000.0 + second, 0.01)
    now = 1000.0 + 7199
    slots = [*statistics._minute.slots, *statistics._hour.slots, statistics._this_minute]
    assert all(slot.waited is None for slot in slots)
    assert statistics.last_hour(now).waited is None


@pytest.mark.parametrize("step", [0.3, 1.0, 5.0, 7.0, 19.0, 60.0])
@pytest.mark.parametrize("asked", [True, False])
def test_all_connections_busy_for_a_while(statistics, step, asked):
    """Free for 100 s, busy for 48 s, free again; looked at all the time, or only at the end."""
    statistics.saturated(1100.0)
    now = 1100.0
    while now < 1148.0:
        now = min(now + step, 1148.0)
        if asked:
            assert statistics.saturated_last_minute(now) == pytest.approx(now - 1100.0, abs=0.06)
            assert statistics.report(now)["saturated_seconds"] == pytest.approx(now - 1100.0, abs=0.06)
    statistics.desaturated(now)
    for later, told in ((0, 48), (12, 48), (30, 30), (59, 1), (61, 0), (1e6, 0)):
        assert statistics.saturated_last_minute(now + later) == pytest.approx(told, abs=SLOT)
    assert statistics.report(1e7)["saturated_seconds"] == 48.0


def test_all_connections_busy_for_ever_are_busy_for_sixty_seconds_of_sixty(statistics):
    statistics.saturated(1000.0)
    for now in (1060.0, 1063.3, 1065.0, 2001.7, 1e6):
        assert statistics.saturated_last_minute(now) == 60.0
        assert statistics.report(now)["saturated_seconds"] == pytest.approx(now - 1000.0, abs=0.05)


def test_many_short_moments_add_up(statistics):
    for number in range(3000):
        now = 1000.0 + number / 10
        statistics.saturated(now)
        statistics.desaturated(now + 0.08)
    assert statistics.saturated_last_minute(1300.0) == pytest.approx(48.0, abs=0.2)
    assert statistics.saturated_seconds == pytest.approx(240.0)


def test_no_figure_that_only_grows_goes_back():
    """Prometheus takes a counter that falls for a child that has restarted."""
    rng = random.Random(7)
    statistics, now, before, busy = Statistics(0.0), 0.0, {}, False
    for _ in range(3000):
        now += rng.choice([0.0, 0.001, 0.1, 3.3, 61.0])
        if rng.random() < 0.5:
            statistics.replied(now, now - 0.3 - rng.random(), now - 0.3, 1, 1)
        if rng.random() < 0.3:
            busy = not busy
            (statistics.saturated if busy else statistics.desaturated)(now)
        report = statistics.report(now)
        for name in ("seconds", "wait_seconds", "lond_seconds", "saturated_seconds"):
            assert report[name] >= before.get(name, 0.0)
        assert 0 <= report["saturated_last_minute"] <= 60
        before = report
