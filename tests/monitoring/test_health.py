import dataclasses
from datetime import datetime, timedelta, timezone

import pytest

from lonc.monitoring.health import Health, Level, Threshold, Thresholds, short_time
from lonc.monitoring.status import FilesStatus, HostStatus, Phase, Report

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)
BEGUN = "2026-11-24T02:00:00+00:00"


def report(*hosts, strays=None):
    return Report(Phase.RUNNING, 41, "1.0", BEGUN, hosts, strays or {})


def health(*hosts, strays=None, **limits):
    return Health(report(*hosts, strays=strays), Thresholds(**limits), NOW)


def well(host="l1", **known):
    return HostStatus(host, "ready", **known)


def small_pool(**known):
    figures = {
        "max_connections": 5,
        "saturated_last_minute": 48.2,
        "last_minute_wait": {"p50": 0.8, "p90": 1.0, "p99": 1.25, "max": 1.3},
    }
    return well(**(figures | known))


DEAD = HostStatus("l2", "DEAD", state_since="2026-11-24T09:00:00+00:00")


@pytest.mark.parametrize(
    ("hosts", "level", "sentence"),
    [
        ([well()], Level.OK, "1 host, all healthy"),
        ([well(), HostStatus("l2", "resting")], Level.OK, "2 hosts, all healthy"),
        (
            [well(), HostStatus("l2", "disabled")],
            Level.OK,
            "2 hosts, all healthy, but 1 disabled: l2 is disabled",
        ),
        (
            [HostStatus("l1", "disabled", done_by_minute=[0], failed_by_minute=[99])],
            Level.OK,
            "1 host, all healthy, but 1 disabled: l1 is disabled",
        ),
        ([well(), DEAD], Level.WARNING, "1 of 2 hosts is degraded: l2 has been DEAD for 3 h"),
        ([DEAD], Level.CRITICAL, "1 of 1 host is degraded: l2 has been DEAD for 3 h"),
        (
            [well(), DEAD, HostStatus("l3", "not answering")],
            Level.CRITICAL,
            "2 of 3 hosts are degraded: l3 hangs, l2 has been DEAD for 3 h",
        ),
        (
            [HostStatus("l1", "no child"), well("l2")],
            Level.CRITICAL,
            "1 of 2 hosts is degraded: l1 has no child",
        ),
        (
            [well(), HostStatus("l2", "connecting")],
            Level.WARNING,
            "1 of 2 hosts is degraded: l2 is connecting",
        ),
        (
            [HostStatus(f"l{number}", "starting") for number in range(5)],
            Level.WARNING,
            "5 of 5 hosts are degraded: l0 is starting, l1 is starting, l2 is starting, 2 more",
        ),
        (
            [well(oldest_wait=31.0)],
            Level.CRITICAL,
            "1 of 1 host is degraded: l1 has a request waiting for 31 s",
        ),
        ([well(oldest_in_flight=29.9)], Level.OK, "1 host, all healthy"),
        (
            [well(oldest_in_flight=213.0)],
            Level.WARNING,
            "1 of 1 host is degraded: l1 has waited for a reply for 4 m",
        ),
        (
            [well(out_of_step=2)],
            Level.WARNING,
            "1 of 1 host is degraded: l1 has had connections out of step in the last hour: 2",
        ),
        (
            [well(wrong_keys=1)],
            Level.WARNING,
            "1 of 1 host is degraded: l1 has had connections whose key did not fit in the last hour: 1",
        ),
        (
            [well(fallbacks=9, fallbacks_last_hour=2)],
            Level.WARNING,
            "1 of 1 host is degraded: l1 has had insecure connections in the last hour: 2",
        ),
        ([well(fallbacks=9, fallbacks_last_hour=0)], Level.OK, "1 host, all healthy"),
        (
            [small_pool()],
            Level.WARNING,
            "1 of 1 host is degraded: l1 has all 5 connections busy for 48 of 60 s, waits of 1.0 s:"
            " raise loncMaxConnections",
        ),
        (
            [small_pool(max_connections=1)],
            Level.WARNING,
            "1 of 1 host is degraded: l1 has the only connection busy for 48 of 60 s, waits of 1.0 s:"
            " raise loncMaxConnections",
        ),
        (  # that is why a request has waited for so long, and as bad
            [small_pool(oldest_wait=31.0)],
            Level.CRITICAL,
            "1 of 1 host is degraded: l1 has all 5 connections busy for 48 of 60 s, waits of 1.0 s:"
            " raise loncMaxConnections",
        ),
        ([small_pool(saturated_last_minute=29.9)], Level.OK, "1 host, all healthy"),
        ([small_pool(last_minute_wait={"p90": 0.09, "p99": 9.0})], Level.OK, "1 host, all healthy"),
        (  # no reply in the last minute: lond is the trouble
            [small_pool(last_minute_wait=None, oldest_in_flight=90.0)],
            Level.WARNING,
            "1 of 1 host is degraded: l1 has waited for a reply for 90 s",
        ),
        (
            [well(done_by_minute=[0, 30], failed_by_minute=[0, 10])],
            Level.WARNING,
            "1 of 1 host is degraded: l1 has failed 25 % of its requests",
        ),
        ([well(done_by_minute=[0, 0], failed_by_minute=[0, 3])], Level.OK, "1 host, all healthy"),
        (
            [well(last_minute={"p99": 12.0})],
            Level.WARNING,
            "1 of 1 host is degraded: l1 takes 12 s for a reply",
        ),
        (
            [well(delayed=1, oldest_delayed=int(NOW.timestamp()) - 3 * 86400)],
            Level.WARNING,
            "1 of 1 host is degraded: l1 has a delayed transaction that is 3 d old",
        ),
        ([well(delayed=1000)], Level.WARNING, "1 host, all healthy; 1000 delayed transactions wait"),
        ([], Level.WARNING, "no hosts; no requests are served"),
        (  # exactly as many requests as a percentage needs
            [well(done_by_minute=[10], failed_by_minute=[10])],
            Level.CRITICAL,
            "1 of 1 host is degraded: l1 has failed 50 % of its requests",
        ),
        (  # failures of six minutes ago
            [well(done_by_minute=[0, 9, 9, 9, 9, 9], failed_by_minute=[90, 0, 0, 0, 0, 0])],
            Level.OK,
            "1 host, all healthy",
        ),
        (  # of a host that is DEAD, that is said, and not its failures
            [well(), dataclasses.replace(DEAD, done_by_minute=[0], failed_by_minute=[90])],
            Level.WARNING,
            "1 of 2 hosts is degraded: l2 has been DEAD for 3 h",
        ),
    ],
)
def test_what_is_said(hosts, level, sentence):
    verdict = health(*hosts)
    assert (verdict.level, verdict.sentence) == (level, sentence)


def test_strays_do_not_change_the_verdict_of_a_host():
    verdict = health(well(), strays={"gone": 3})
    assert verdict.level is Level.WARNING
    expected = "1 host, all healthy; delayed transactions for gone, which is not in the table: 3"
    assert verdict.sentence == expected


@pytest.mark.parametrize(
    ("left", "level", "text"),
    [
        (timedelta(days=14, seconds=1), Level.OK, "1 host, all healthy"),
        (timedelta(days=14), Level.WARNING, "our certificate expires in 14 d"),
        (timedelta(days=3, seconds=1), Level.WARNING, "our certificate expires in 3 d"),
        (timedelta(days=3), Level.CRITICAL, "our certificate expires in 3 d"),
        (timedelta(days=-5), Level.CRITICAL, "our certificate has expired 5 d ago"),
    ],
)
def test_a_certificate_is_a_warning_two_weeks_and_critical_three_days_before_it_expires(
    left, level, text
):
    until = (NOW + left).isoformat()
    verdict = Health(dataclasses.replace(report(well()), certified_until=until), now=NOW)
    assert verdict.level is level
    assert verdict.sentence.split("; ")[-1] == text


def test_one_rejected_transaction_is_a_warning():
    verdict = Health(dataclasses.replace(report(well()), bad=1), now=NOW)
    assert verdict.level is Level.WARNING
    assert verdict.sentence == "1 host, all healthy; bad delayed transactions: 1"


def test_the_worst_hosts_are_first_and_the_rest_in_the_order_of_the_table():
    hosts = [well("a"), DEAD, well("b"), HostStatus("c", "no child"), well("d")]
    assert [host.host for host, _ in health(*hosts).hosts] == ["c", "l2", "a", "b", "d"]


def test_thresholds():
    assert [Threshold(2, 5).level(value) for value in (1, 2, 4.9, 5, 9)] == [0, 1, 1, 2, 2]
    assert health(small_pool(), busy=Threshold(49)).level == 0
    assert health(small_pool(), busy=Threshold(20, 40)).level == 2
    two_dead = [DEAD, HostStatus("l3", "DEAD"), well()]
    for limit, level in ((Threshold(3), 0), (Threshold(2), 1), (Threshold(1, 2), 2)):
        assert health(*two_dead, dead=limit).level == level


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 ms"), (0.00016, "0.2 ms"), (0.0999, "99.9 ms"), (0.1, "100 ms"),
        (0.25, "250 ms"), (1.24, "1.2 s"), (42.0, "42 s"),
        (119.0, "119 s"), (120.0, "2 m"), (7199.0, "120 m"), (7200.0, "2 h"), (180_000.0, "2 d"),
    ],
)  # fmt: skip
def test_a_time_in_short(seconds, text):
    assert short_time(seconds) == text


@pytest.mark.parametrize(
    ("files", "level", "text"),
    [
        (FilesStatus(), Level.OK, "1 host, all healthy"),
        (
            FilesStatus(["t:3: wrong"], 1),
            Level.WARNING,
            "1 host, all healthy; faults in the files on the disk: t:3: wrong",
        ),
        (
            FilesStatus(["c:1: wrong", "t:3: wrong"], 12, would_start=False),
            Level.WARNING,
            "1 host, all healthy; lonc would not start with the files on the disk: c:1: wrong,"
            " and 11 more (`lonc check`)",
        ),
        (
            FilesStatus(changed=["t has changed since 04:17: `lonc update` takes it"]),
            Level.OK,
            "1 host, all healthy; t has changed since 04:17: `lonc update` takes it",
        ),
    ],
)
def test_files_on_the_disk(files, level, text):
    verdict = Health(dataclasses.replace(report(well()), files=files), now=NOW)
    assert (verdict.level, verdict.sentence) == (level, text)
