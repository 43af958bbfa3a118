import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lonc.monitoring.health import Health
from lonc.monitoring.status import HostStatus, Phase, Report
from lonc.monitoring.text import host_to_text, to_text

SINCE = "2026-11-24T02:00:00+00:00"
TIMES = {"p50": 0.00016, "p90": 0.001, "p99": 0.25, "max": 1.0}
L1 = HostStatus(
    "l1",
    "ready",
    connections={"Idle": 2, "Connected": 1},
    clients=30,
    waiting=4,
    oldest_wait=0.25,
    oldest_in_flight=21.0,
    done=1_234_567,
    failed=1,
    reasons={"connection lost": 1},
    delayed=9,
    last_hour=TIMES,
    last_error=(SINCE, "lost a connection: it broke"),
    changes=((SINCE, "connecting", None), (SINCE, "ready", "connected")),
    since=SINCE,
    pid=42,
)
REPORT = Report(
    Phase.RUNNING,
    41,
    "1.0",
    SINCE,
    [L1, HostStatus("longer", "not answering", pid=43), HostStatus("l3", "no child")],
    {"gone": 3},
)
TABLE = """\
HOST     STATE          FOR  CONN  CLIENTS  WAIT  OLDEST  FLIGHT  DONE  FAIL    P50    P99  DELAY
longer   not answering    -     -        -     -       -       -     -     -      -      -      -
l3       no child         -     -        -     -       -       -     -     -      -      -      -
l1       ready            -     3       30     4   250ms     21s  1.2M     1  0.2ms  250ms      9
3 hosts                         3       30     4   250ms     21s  1.2M     1                    9
"""


def test_the_worst_host_is_first_and_the_sums_are_last():
    assert to_text(REPORT).splitlines() == [
        f"lonc 1.0 is running, pid 41, since {SINCE}: 2 of 3 hosts are degraded",
        *TABLE.splitlines(),
        "delayed transactions for gone, which is not in the table: 3",
    ]


def test_the_key_mode_is_beside_the_state_unless_it_is_classic():
    modes = ("classic", "ssl", "insecure", "local", None)
    hosts = [HostStatus(f"l{number}", "ready", mode=mode) for number, mode in enumerate(modes)]
    lines = to_text(Report(Phase.RUNNING, 41, "1.0", SINCE, hosts, {})).splitlines()
    shown = [" ".join(line.split()[1:3]) for line in lines[2:7]]
    assert shown == ["ready -", "ready (ssl)", "ready (insecure)", "ready (local)", "ready -"]


def test_all_counts_have_sums():
    many = [HostStatus(f"l{number}", "ready", done=10**18 - 1) for number in range(2000)]
    assert (
        to_text(Report(Phase.RUNNING, 41, "1.0", SINCE, many, {})).splitlines()[-1].split()[-3] == "2.0Z"
    )


def test_without_hosts():
    text = to_text(Report(Phase.STOPPING, 41, "1.0", SINCE, [], {}))
    assert text == f"lonc 1.0 is stopping, pid 41, since {SINCE}: no hosts\nno requests are served\n"


def test_colours_follow_the_severity_and_change_nothing_else():
    lines = to_text(REPORT, colour=True).splitlines()
    assert lines[2].startswith("\x1b[1;31mlonger ")
    assert lines[4].startswith("l1 ")
    assert re.sub("\x1b\\[[0-9;]*m", "", "\n".join(lines) + "\n") == to_text(REPORT)


counts = st.none() | st.integers(0, 10**17)
hosts = st.builds(
    HostStatus,
    host=st.from_regex(r"[a-z0-9]{1,60}", fullmatch=True),
    state=st.sampled_from(["ready", "DEAD", "not answering", "no child", "connecting"]),
    state_since=st.sampled_from([None, SINCE, "1970-01-01T00:00:00+00:00"]),
    connections=st.none() | st.builds(dict, Idle=st.integers(0, 1000)),
    clients=counts,
    waiting=counts,
    oldest_wait=st.none() | st.floats(0, 86400),
    done=counts,
    failed=counts,
    delayed=counts,
    last_hour=st.none() | st.builds(dict, p50=st.floats(0, 86400), p99=st.floats(0, 86400)),
)


@pytest.mark.parametrize("width", [80, 100])
@given(some=st.lists(hosts, min_size=1, max_size=5))
def test_the_table_is_never_wider_than_the_terminal(width, some):
    report = Report(Phase.RUNNING, 41, "1.0", SINCE, some, {})
    assert all(host.host in to_text(report) for host in some)
    lines = to_text(report, width=width).splitlines()
    assert max(map(len, lines[1:])) <= width
    assert len({line.index("STATE") for line in lines if "STATE" in line}) == 1


def test_whether_connections_out_of_step_are_found_and_how_many_were():
    for known, count, lines in (
        (None, 0, []),
        (True, 0, []),
        (False, 0, ["l1: connections out of step are not found: lond does not know ping"]),
        (True, 3, ["l1: connections out of step in the last hour: 3"]),
    ):
        host = HostStatus("l1", "ready", ping_known=known, out_of_step=count)
        report = Report(Phase.RUNNING, 41, "1.0", SINCE, [host], {})
        assert host_to_text(host, Health(report)).splitlines()[1:] == lines


def test_connections_whose_key_did_not_fit():
    host = HostStatus("l1", "ready", wrong_keys=2)
    report = Report(Phase.RUNNING, 41, "1.0", SINCE, [host], {})
    lines = host_to_text(host, Health(report)).splitlines()[1:]
    assert lines == ["l1: connections whose key did not fit in the last hour: 2"]


def test_on_a_narrow_terminal_columns_are_left_out_before_names_are_cut_short():
    host = dataclasses.replace(L1, host="a-host-with-a-long-name")
    lines = to_text(Report(Phase.RUNNING, 41, "1.0", SINCE, [host], {}), width=80).splitlines()
    assert lines[1:] == [
        "HOST            STATE  FOR  CONN  WAIT  OLDEST  FLIGHT  DONE  FAIL    P99  DELAY",
        "a-host-with-a…  ready    -     3     4   250ms     21s  1.2M     1  250ms      9",
    ]


def test_a_pool_that_is_too_small_stands_below_the_table_and_among_all_that_is_known():
    host = dataclasses.replace(
        L1,
        max_connections=5,
        saturated_last_minute=48.0,
        last_minute_wait=TIMES | {"p90": 1.0},
        last_hour_lond=TIMES,
    )
    report = Report(Phase.RUNNING, 41, "1.0", SINCE, [host], {})
    reason = "all 5 connections busy for 48 of 60 s, waits of 1.0 s: raise loncMaxConnections"
    assert to_text(report).splitlines()[-1] == f"l1: {reason}"
    known = host_to_text(host, Health(report)).splitlines()
    assert known[-4] == f"l1: {reason}"
    assert known[-5] == "l1: all connections busy in the last minute: for 48 of 60 s"
    figures = "p90 1.0 s, p99 250 ms, max 1.0 s"
    assert f"l1: wait for a connection in the last minute: p50 0.2 ms, {figures}" in known
    assert "l1: lond's time in the last hour: p50 0.2 ms, p90 1.0 ms, p99 250 ms, max 1.0 s" in known


def test_all_figures_of_one_host():
    assert host_to_text(L1, Health(REPORT)).splitlines() == [
        "l1: ready, connections 3, clients 30, waiting 4, done 1234567, failed 1, delayed 9,"
        f" up since {SINCE}",
        "l1: oldest request in flight: for 21 s",
        "l1: failed: connection lost 1",
        "l1: latency in the last hour: p50 0.2 ms, p90 1.0 ms, p99 250 ms, max 1.0 s",
        f"l1: last error, {SINCE}: lost a connection: it broke",
        f"l1: {SINCE} connecting",
        f"l1: {SINCE} ready: connected",
    ]
