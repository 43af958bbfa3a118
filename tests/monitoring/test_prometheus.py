import re
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly
from prometheus_client.parser import text_string_to_metric_families

from lonc.errors import LoncError, NotRunning, UsageError
from lonc.monitoring.prometheus import StatusCollector, serve
from lonc.monitoring.statistics import REPORTED_BOUNDS, Reason, Statistics
from lonc.monitoring.status import HostStatus, Phase, Report

SINCE = "2026-11-24T02:00:00+00:00"


def host():
    statistics = Statistics(0.0)
    for milliseconds in range(1, 101):
        since = 1.0 - milliseconds / 1000
        statistics.replied(1.0, since, since, 10, 20)
    statistics.replied(1.0, -5.0, -2.0, 10, 20)
    statistics.saturated(0.25)
    statistics.desaturated(1.0)
    statistics.failed_for(1.0, Reason.LOST, 2)
    statistics.failed_for(1.0, Reason.DEAD, 3)
    statistics.failed_for(1.0, Reason.OUT_OF_STEP, 1)
    for _ in range(2):
        statistics.wrong_key(1.0)
    return HostStatus(
        'l"1\\',
        "ready",
        connections={"Idle": 4, "ReceivingReply": 1},
        max_connections=5,
        clients=7,
        waiting=2,
        oldest_wait=0.5,
        oldest_in_flight=213.5,
        delayed=3,
        oldest_delayed=1_700_000_000,
        since=SINCE,
        memory=1 << 20,
        **statistics.report(1.0),
    )


REPORT = Report(
    Phase.RUNNING,
    41,
    "1.0",
    SINCE,
    [host(), HostStatus("l2", "DEAD"), HostStatus("l3", "not answering")],
    {},
)


def registry(current):
    made = CollectorRegistry()
    made.register(StatusCollector(current))
    return made


@pytest.fixture
def samples():
    text = generate_latest(registry(lambda: REPORT)).decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


L1 = ("host", 'l"1\\')


def test_the_figures_are_those_of_the_status(samples):
    assert samples["lonc_up",] == 1
    assert samples["lonc_transactions_total", L1, ("result", "done")] == 101
    assert samples["lonc_transactions_total", L1, ("result", "connection lost")] == 2
    assert samples["lonc_transactions_total", L1, ("result", "host dead")] == 3
    assert samples["lonc_transactions_total", L1, ("result", "out of step")] == 1
    assert samples["lonc_out_of_step", L1] == 1
    assert samples["lonc_wrong_keys", L1] == 2
    assert samples["lonc_connections", L1, ("state", "Idle")] == 4
    assert samples["lonc_queue_length", L1] == 2
    assert samples["lonc_in_flight_oldest_seconds", L1] == 213.5
    assert samples["lonc_delayed_files", L1] == 3
    assert samples["lonc_sent_bytes_total", L1] == 1010
    assert samples["lonc_received_bytes_total", L1] == 2020
    assert [samples["lonc_host_up", ("host", id_)] for id_ in ('l"1\\', "l2", "l3")] == [1, 0, 0]
    assert [samples["lonc_host_hung", ("host", id_)] for id_ in ('l"1\\', "l2", "l3")] == [0, 0, 1]
    assert samples["lonc_host_state", L1, ("state", "ready")] == 1


def test_the_histogram(samples):
    name = "lonc_request_duration_seconds"
    assert samples[f"{name}_count", L1] == 101
    assert samples[f"{name}_sum", L1] == pytest.approx(5.05 + 6)
    assert samples[f"{name}_bucket", L1, ("le", "0.05")] == pytest.approx(50, abs=1)
    assert samples[f"{name}_bucket", L1, ("le", "0.1")] == pytest.approx(100, abs=1)
    assert len([key for key in samples if key[0] == f"{name}_bucket"]) == len(REPORTED_BOUNDS) + 1


def test_the_histograms_of_waits_and_of_the_times_of_lond(samples):
    assert samples["lonc_wait_seconds_count", L1] == 101
    assert samples["lonc_wait_seconds_sum", L1] == 3
    assert samples["lonc_wait_seconds_bucket", L1, ("le", "1e-05")] == 100  # had not to wait
    assert samples["lonc_wait_seconds_bucket", L1, ("le", "2.5")] == 100
    assert samples["lonc_wait_seconds_bucket", L1, ("le", "5")] == 101
    assert samples["lonc_lond_seconds_count", L1] == 101
    assert samples["lonc_lond_seconds_sum", L1] == pytest.approx(5.05 + 3)
    assert samples["lonc_lond_seconds_bucket", L1, ("le", "0.05")] == pytest.approx(50, abs=1)
    assert samples["lonc_lond_seconds_bucket", L1, ("le", "+Inf")] == 101


def test_the_pool(samples):
    assert samples["lonc_connections_limit", L1] == 5
    assert samples["lonc_pool_saturated_seconds_total", L1] == 0.8  # to a tenth of a second


def test_each_help_can_be_understood_without_the_others():
    for family in text_string_to_metric_families(generate_latest(registry(lambda: REPORT)).decode()):
        assert family.documentation.endswith("."), family.name
        assert not re.search(r"\b(them|these|those|they)\b", family.documentation), family.name


def test_unknown_figures_are_left_out(samples):
    assert ("lonc_clients", ("host", "l3")) not in samples


def test_the_strict_parser_accepts_the_output():
    text = exposition.generate_latest(registry(lambda: REPORT)).decode()
    names = {family.name for family in strictly(text)}
    assert "lonc_request_duration_seconds" in names


def test_without_a_daemon():
    def current():
        raise NotRunning("lonc is not running")

    assert b"\nlonc_up 0.0\n" in generate_latest(registry(current))


@pytest.mark.parametrize("listen", ["9663", ":9663", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999"])
def test_an_invalid_address_is_an_error(listen):
    with pytest.raises(UsageError, match="not ADDRESS:PORT"):
        serve(lambda: REPORT, listen)


def test_a_port_in_use_is_an_error_and_a_free_one_is_served(machine):
    import signal
    import subprocess

    from support.machine import LONC

    machine.start()
    command = [*LONC, "-c", machine.configuration, "exporter", "--listen"]
    with subprocess.Popen([*command, "127.0.0.1:0"], stdout=subprocess.PIPE) as exporter:
        try:
            url = exporter.stdout.readline().split()[-1].decode()
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert b'lonc_host_up{host="l1"}' in answer.read()
            place = url.split("/")[2]
            second = subprocess.run([*command, place], capture_output=True, timeout=20)
            assert second.returncode == 1
            assert second.stderr.decode() == f"lonc: cannot listen at {place}: Address already in use\n"
            machine.stop()
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert b"\nlonc_up 0.0\n" in answer.read()
        finally:
            exporter.send_signal(signal.SIGTERM)
        assert exporter.wait(10) == 0


def test_an_invalid_report_counts_as_no_answer():
    def current():
        raise LoncError("nonsense")

    assert b"\nlonc_up 0.0\n" in generate_latest(registry(current))
