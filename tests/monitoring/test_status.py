import json

import pytest

from lonc.monitoring.status import FilesStatus, HostStatus, Phase, Report


def test_a_status_is_one_line_of_json():
    status = HostStatus("l1", "ready", connections={"Idle": 2}, clients=3, delayed=9, pid=42)
    line = status.to_line()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert HostStatus(**json.loads(line)) == status


SINCE = "2026-11-24T02:00:00+00:00"
REPORT = Report(
    Phase.RUNNING,
    41,
    "1.0",
    SINCE,
    [
        HostStatus("l1", "ready", connections={"Idle": 2, "Connected": 1}, done=7, since=SINCE),
        HostStatus("longer", "not answering", pid=43),
        HostStatus("l3", "no child"),
    ],
    {"gone": 3},
    files=FilesStatus(["a fault"], 1, False, ["a change"]),
)


def test_unknown_figures_are_not_in_the_line():
    assert json.loads(HostStatus("l3", "no child").to_line()) == {"host": "l3", "state": "no child"}


def test_a_report_is_equal_after_a_round_trip():
    assert REPORT.to_line().count(b"\n") == 1
    assert Report.from_line(REPORT.to_line()) == REPORT


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"hosts": 1}',
        b"[" * 100_000,
        REPORT.to_line().replace(b"running", b"asleep"),
        REPORT.to_line().replace(b'"running"', b"[]"),
        REPORT.to_line().replace(b'"strays"', b'"stray"'),
        REPORT.to_line().replace(b'"failed"', b'"fail"'),
    ],
)
def test_an_invalid_report_is_a_value_error(line):
    with pytest.raises(ValueError):  # noqa: PT011
        Report.from_line(line)


@pytest.mark.parametrize(
    "fields",
    [
        {"host": 1},
        {"state": "\ud800"},
        {"state_since": "yesterday"},
        {"state_since": "2026-11-24T02:00:00"},  # in which zone?
        {"clients": "1"},
        {"clients": True},
        {"clients": -1},
        {"clients": 10**400},
        {"clients": 1.0},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"connections": [1]},
        {"connections": {"Idle": "1"}},
        {"last_hour": {"p50": 1}},
        {"done_by_minute": [1]},
        {"durations": [1]},
        {"wait_durations": [1]},
        {"last_minute_wait": {"p50": 1}},
        {"saturated_last_minute": 60.1},
        {"last_error": [SINCE]},
        {"last_error": "no"},
        {"changes": [[SINCE, "ready"]]},
        {"another": 1},
    ],
)
def test_a_report_that_cannot_be_shown_is_a_value_error(fields):
    line = json.dumps({"host": "l1", "state": "ready"} | fields).encode()
    with pytest.raises(ValueError):  # noqa: PT011
        HostStatus.from_line(line)


OUT_OF_BOUNDS = {
    "state_since": "yesterday",
    "clients": -1,
    "waiting": 10**400,
    "oldest_wait": -0.001,
    "oldest_in_flight": -0.001,
    "seconds": float("nan"),
    "connections": {"Idle": -1},
    "last_minute": {"p50": 1},
    "done_by_minute": [1],
    "durations": [-1],
    "lond_durations": [-1],
    "last_hour_lond": {"p50": 1},
    "saturated_last_minute": 60.1,
    "saturated_seconds": -0.1,
    "max_connections": -1,
    "last_error": [SINCE, "\ud800"],
    "changes": [[SINCE, "ready"]],
}


@pytest.mark.parametrize("name", OUT_OF_BOUNDS)
def test_a_figure_out_of_its_bounds_is_unknown_and_the_rest_is_kept(name):
    fields = {"host": "l1", "state": "ready", "sent": 7, name: OUT_OF_BOUNDS[name]}
    line = json.dumps(fields).encode()
    assert HostStatus.from_child(line) == HostStatus("l1", "ready", sent=7)


@pytest.mark.parametrize("fields", [{"clients": "1"}, {"connections": [1]}, {"another": 1}])
def test_a_figure_of_another_type_or_name_is_a_value_error(fields):
    line = json.dumps({"host": "l1", "state": "ready"} | fields).encode()
    with pytest.raises(ValueError):  # noqa: PT011
        HostStatus.from_child(line)


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b"{}", b"[" * 100_000])
def test_an_invalid_report_of_a_child_is_a_value_error(line):
    with pytest.raises(ValueError):  # noqa: PT011
        HostStatus.from_child(line)


def test_a_delayed_transaction_may_have_any_time_that_fits_into_a_name():
    status = HostStatus("l1", "ready", oldest_delayed=10**18 - 1)
    assert HostStatus.from_line(status.to_line()) == status


def test_a_host_in_a_sentence():
    assert REPORT.hosts[0].to_text() == (
        f"ready, connections 3, clients -, waiting -, done 7, failed -, delayed -, up since {SINCE}"
    )
