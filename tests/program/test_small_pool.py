"""A lond that needs a moment for each reply, and too few connections to it for all clients."""

import json
import subprocess
import threading
import time
import urllib.request

import pytest
from support import preparations
from support.machine import LONC, eventually, program, read_line
from support.scripted_lond import ScriptedLond

LOND = 0.2  # seconds that the lond needs for each reply
CLIENTS = 8


def slow(peer):
    peer.greet()
    while (line := peer.hear()) is not None:
        time.sleep(LOND)
        peer.say(line)


def ask_until(end, client):
    while not end.is_set():
        client.sendall(b"echo\n")
        assert read_line(client) == b"echo"


def scrape(machine):
    command = [*LONC, "-c", machine.configuration, "exporter", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as exporter:
        try:
            url = exporter.stdout.readline().split()[-1].decode()
            with urllib.request.urlopen(url, timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        finally:
            exporter.terminate()
    return {
        name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")
    }


def test_a_pool_that_is_too_small_is_reported_with_the_setting_to_raise(machine):
    machine.configure(loncMaxConnections=2)
    end = threading.Event()
    with ScriptedLond(machine.address(1), machine.port, slow):
        machine.run()
        clients = [machine.connect() for _ in range(CLIENTS)]
        threads = [threading.Thread(target=ask_until, args=(end, client)) for client in clients]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: machine.status()["saturated_last_minute"] >= 3.0, 30)
        finally:
            end.set()
            for thread in threads:
                thread.join()
        status = machine.status()
        # 2 of 8 requests are in flight, so a request waits for three that are before it.
        assert 2 * LOND < status["last_minute_wait"]["p50"] <= status["last_minute_wait"]["max"]
        assert status["last_minute_lond"]["p50"] >= LOND
        assert status["lond_seconds"] < status["wait_seconds"]
        assert status["seconds"] == pytest.approx(status["wait_seconds"] + status["lond_seconds"])
        assert (status["max_connections"], status["oldest_in_flight"]) == (2, 0)
        assert 3.0 <= status["saturated_last_minute"] == status["saturated_seconds"] <= 60

        sentence = (
            f"all 2 connections busy for {status['saturated_last_minute']:.0f} of 60 s, waits of"
        ).encode()
        done = machine.command("check-health", "--busy", "2")
        assert done.returncode == 1
        assert b"1 of 1 host is degraded: l1 has " + sentence in done.stdout
        assert b": raise loncMaxConnections" in done.stdout
        assert machine.command("check-health").returncode == 0  # not for 30 s
        for command in (["status"], ["status", "l1"]):
            done = machine.command(*command, program=program(preparations.busy_for, 2))
            assert b"\nl1: " + sentence in done.stdout
            assert b": raise loncMaxConnections\n" in done.stdout
        (host,) = json.loads(machine.command("status", "--json").stdout)["hosts"]
        assert host["last_minute_wait"] == status["last_minute_wait"]

        metrics = scrape(machine)
        for name, seconds in (("wait", "wait_seconds"), ("lond", "lond_seconds")):
            assert metrics[f'lonc_{name}_seconds_count{{host="l1"}}'] == status["done"]
            assert metrics[f'lonc_{name}_seconds_sum{{host="l1"}}'] == status[seconds]
            assert metrics[f'lonc_{name}_seconds_bucket{{host="l1",le="+Inf"}}'] == status["done"]
        assert metrics['lonc_lond_seconds_bucket{host="l1",le="0.1"}'] == 0
        assert metrics['lonc_pool_saturated_seconds_total{host="l1"}'] == status["saturated_seconds"]
        machine.stop()
