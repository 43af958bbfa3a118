"""Reports about a running daemon with four hosts: one is DEAD, one has a stopped child."""

import argparse
import json
import math
import os
import re
import signal
import subprocess
import time
import urllib.request

import pytest
from support import preparations
from support.load import Load
from support.machine import LONC, Machine, Terminal, eventually, program

from lonc.commands.status import threshold
from lonc.monitoring.health import Threshold

ASKED = 500  # requests to each of two hosts
DEAD_ASKED = 30
DEADLINE = 60  # seconds; the stopped child never answers, so waiting for it would never end


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """l1 and l2 are healthy and have served requests, l3 has no lond, the child of l4 is stopped."""
    machine = Machine(tmp_path_factory.mktemp("four"))
    machine.hosts("l1", "l2", "l3", "l4")
    machine.configure(loncRetryDelay=60, loncRetryMaxDelay=60)
    for host in ("l1", "l2", "l4"):
        machine.start_lond(host)
    machine.start()
    load = Load([machine.sockets / host for host in ("l1", "l2")], clients=2, requests=ASKED).run()
    assert load.done == 2 * ASKED
    for _ in range(DEAD_ASKED):
        assert machine.ask(b"ping", "l3") == b"con_lost"
    eventually(lambda: machine.status("l3")["state"] == "DEAD")
    hung = machine.children()["l4"]
    os.kill(hung, signal.SIGSTOP)
    yield machine
    os.kill(hung, signal.SIGCONT)
    machine.end()


@pytest.fixture
def nothing_left():
    """Replaces the fixture of the same name: the machine outlives a single test."""


def within(seconds, function):
    begun = time.monotonic()
    result = function()
    assert time.monotonic() - begun < seconds
    return result


def test_status_tells_of_the_hung_one_in_time_and_rightly_of_the_others(four):
    done = within(DEADLINE, lambda: four.command("status"))
    first, _, *rows = done.stdout.decode().splitlines()
    assert first.endswith(": 2 of 4 hosts are degraded")
    assert max(len(row) for row in rows) <= 100
    assert [row.split()[0] for row in rows] == ["l4", "l3", "l1", "l2", "4"]
    assert re.match(r"l4 +not answering ", rows[0])
    assert re.match(rf"l3 +DEAD +\S+ +0 +0 +0 +- +- +0 +{DEAD_ASKED} ", rows[1])
    assert re.match(rf"l1 +ready +\S+ +\d +\d +0 +- +- +{ASKED} +0 +\S+ms", rows[2])
    assert "\x1b" not in done.stdout.decode()


def test_json_agrees_with_what_was_sent(four):
    report = json.loads(four.command("status", "--json").stdout)
    hosts = {host["host"]: host for host in report["hosts"]}
    for id_ in ("l1", "l2"):
        host = hosts[id_]
        assert (host["done"], host["failed"]) == (ASKED, 0)
        assert sum(host["done_by_minute"]) == ASKED
        assert host["durations"][-1] == ASKED
        assert 0 < host["last_hour"]["p50"] <= host["last_hour"]["p99"] <= host["last_hour"]["max"]
    dead = hosts["l3"]
    assert sum(dead["reasons"].values()) == dead["failed"] == DEAD_ASKED
    assert sum(dead["failed_by_minute"]) == DEAD_ASKED
    assert "Connection refused" in dead["last_error"][1]


def test_all_that_is_known_of_one_host(four):
    output = four.command("status", "l3").stdout.decode()
    assert "l3: failed: " in output
    assert re.search(r"^l3: \S+ DEAD: an attempt failed: cannot connect", output, re.M)
    done = four.command("status", "l33")
    assert (done.returncode, done.stderr) == (2, b"lonc: l33 is not served; did you mean l3?\n")


def test_check_health(four):
    done = within(DEADLINE, lambda: four.command("check-health"))
    line = done.stdout.decode()
    assert done.returncode == 2
    assert line.startswith("LONC CRITICAL - 2 of 4 hosts are degraded: l4 hangs, l3 has been DEAD for ")
    assert line.count("\n") == 1
    _, _, data = line.partition(" | ")
    figures = dict(each.split(";")[0].split("=") for each in data.split())
    assert {name: figures[name] for name in ("hosts", "dead", "hung", "done", "failed")} == {
        "hosts": "4",
        "dead": "1",
        "hung": "1",
        "done": f"{2 * ASKED}c",
        "failed": f"{DEAD_ASKED}c",
    }
    for each in data.split():
        assert re.fullmatch(r"\w+=[0-9.e+-]+(s|c)?;[0-9.]*;[0-9.]*;0", each), each


def test_the_page(four, tmp_path):
    assert within(DEADLINE, lambda: four.command("status", "--html", tmp_path)).returncode == 0
    page = (tmp_path / "index.html").read_text()
    assert f"l1: {ASKED} replies and 0 failures in the last hour" in page
    assert f"l3: 0 replies and {DEAD_ASKED} failures in the last hour" in page
    assert '<td data-label="state" class="state critical">not answering</td>' in page
    assert '<td data-label="state" class="state warning">DEAD</td>' in page


def test_the_exporter(four):
    command = [*LONC, "-c", four.configuration, "exporter", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as exporter:
        try:
            url = exporter.stdout.readline().split()[-1].decode()
            with within(DEADLINE, lambda: urllib.request.urlopen(url, timeout=10)) as answer:
                text = answer.read().decode()
        finally:
            exporter.terminate()
    assert f'lonc_transactions_total{{host="l1",result="done"}} {float(ASKED)}\n' in text
    assert f'lonc_request_duration_seconds_count{{host="l2"}} {float(ASKED)}\n' in text
    assert 'lonc_host_hung{host="l4"} 1.0\n' in text
    assert 'lonc_host_up{host="l3"} 0.0\n' in text


def test_top(four):
    terminal = Terminal([*LONC, "-c", four.configuration, "top", "--every", "0.2"])
    shown = terminal.until("q.* leave")
    assert "2 of 4 hosts are degraded" in shown
    assert shown.index("l4") < shown.index("l1 ")
    terminal.type(b"h")
    terminal.until(r"l1 (?s:.*)l4 (?s:.*)leave")
    terminal.type(b"rl")  # two keys at once; the order in use is shown in reverse
    terminal.until(r"\x1b\[7ml\x1b")
    terminal.type(b"\x1b[A\x1bOB")  # arrow keys
    terminal.type(b"d")
    terminal.until(r"\x1b\[7md\x1b")
    terminal.type(b"q")
    assert terminal.end() == 0


def test_escape_leaves_top(four):
    terminal = Terminal([*LONC, "-c", four.configuration, "top"])
    terminal.until("q.* leave")
    terminal.type(b"\x1b")
    assert terminal.end() == 0


@pytest.mark.parametrize("every", ["0", "-1", "inf", "nan", "86401", "1e300"])
def test_an_interval_that_top_cannot_wait_is_wrong_usage(four, every):
    terminal = Terminal([*LONC, "-c", four.configuration, "top", "--every", every])
    terminal.until(r"lonc: --every must be more than 0 and at most 86400 seconds")
    assert terminal.end() == 2


def test_colours_on_a_terminal_alone(four):
    terminal = Terminal([*LONC, "-c", four.configuration, "status"])
    shown = terminal.until(r"4 hosts")
    assert "\x1b[1;31ml4" in shown
    assert terminal.end() == 0


def test_top_wants_a_terminal(four):
    done = four.command("top")
    assert done.returncode == 2
    assert done.stderr.startswith(b"lonc: top needs a terminal")


@pytest.mark.parametrize(("command", "library"), [("top", "rich"), ("exporter", "prometheus_client")])
def test_without_its_library_a_command_says_how_to_get_it(four, command, library):
    done = four.command(command, program=program(preparations.without_library, library))
    assert done.returncode == 1
    assert (
        done.stderr.decode() == f"lonc: {command} needs the library {library}: pip install {library}\n"
    )


def test_a_threshold():
    assert threshold("3") == Threshold(3)
    assert threshold("3,5.5") == Threshold(3, 5.5)
    assert threshold("3,3") == Threshold(3, 3)
    assert threshold("inf") == Threshold(math.inf)
    for text, why in (
        ("", "'' is not one or two numbers, as in 5 or 5,30"),
        ("x", "'x' is not one or two numbers"),
        ("1,2,3", "'1,2,3' is not one or two numbers"),
        ("nan", "'nan' is not one or two numbers"),
        ("1,nan", "'1,nan' is not one or two numbers"),
        ("5,2", "critical, 2, is less than warning, 5"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=why):
            threshold(text)


@pytest.mark.parametrize("value", ["nan", "5,2", "x"])
def test_check_health_with_a_threshold_that_makes_no_sense_is_wrong_usage(four, value):
    done = four.command("check-health", "--dead", value)
    assert (done.returncode, done.stdout) == (2, b"")
    why = rf"lonc: argument --dead: .*{value[0]}.*; see `lonc help check-health`\n"
    assert re.fullmatch(why, done.stderr.decode())


class TestWithoutADaemon:
    def test_a_daemon_of_another_version(self, machine):
        machine.start()
        older = program(preparations.not_understand_reports)
        for command, status in (("status", 4), ("check-health", 3)):
            done = machine.command(command, program=older)
            assert done.returncode == status
            assert b"its answer cannot be read: is it of another version?" in done.stdout + done.stderr

    def test_check_health(self, machine):
        done = machine.command("check-health")
        assert (done.returncode, done.stdout) == (2, b"LONC CRITICAL - lonc is not running\n")
        machine.configuration.unlink()
        done = machine.command("check-health")
        assert done.returncode == 3
        assert re.fullmatch(rb"LONC UNKNOWN - .*\n", done.stdout)

    def test_all_is_well(self, machine):
        machine.start_lond("l1")
        machine.start()
        machine.ask(b"ping")
        done = machine.command("check-health", "--dead", "1,1")
        assert done.returncode == 0
        assert done.stdout.startswith(b"LONC OK - 1 host, all healthy | hosts=1;;;0 dead=0;1;1;0 ")
