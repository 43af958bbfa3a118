"""The cost of many hosts: at the start, and idle."""

import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from .ends import Ends
from .subjects import (
    ALL_CORES,
    BIN_LONC,
    Subject,
    children_of,
    cpu_seconds,
    on_cores,
    pss,
    table,
    write_configuration,
)

HOSTS = 500
REST = 30.0  # seconds; the parent pings each child every ten
SETTLED = 15.0  # seconds, until the first ping is over
MIB = 1 << 20

ROOT = Path(__file__).parents[2]
FORKS = [sys.executable, "-m", "tests.benchmark.idle_forks"]


class Daemon(Subject):
    """`lonc start`, with a lond for each host, on all cores."""

    dialogue = True
    cores = ALL_CORES

    def command(self):
        table(self.directory, self.addresses)
        self.file = write_configuration(self.directory, self.port, loncLogLevel="error", **self.settings)
        self.began = time.perf_counter()
        return [BIN_LONC, "-c", self.file, "start"]

    def workers(self):
        return children_of(self.parent)

    @property
    def parent(self):
        return int((self.directory / "daemons" / "logs" / "lonc.pid").read_text())

    def close(self):
        try:
            subprocess.run([BIN_LONC, "-c", self.file, "stop"], check=True, stdout=subprocess.DEVNULL)
        finally:
            self.pids = []
            super().close()


def forks():
    """Seconds in which a Python process with the same modules forks as many idle processes."""
    began = time.perf_counter()
    with on_cores(ALL_CORES):
        process = subprocess.Popen(
            [*FORKS, str(HOSTS)], cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True
        )
    try:
        assert process.stdout.readline(), "the processes cannot be forked"
        return time.perf_counter() - began
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # also those of an unfinished start
        process.wait()
        process.stdout.close()


def start(measure, **settings):
    """(seconds of `lonc start`, the result of `measure(daemon)` once all connections are made)."""
    with Daemon(HOSTS, 5, **settings) as daemon, Ends(daemon.listening, True, None, None) as ends:
        while daemon.process.poll() is None:
            ends.turn(0.001)
        seconds = time.perf_counter() - daemon.began
        assert daemon.process.returncode == 0
        while ends.turn(1.0):
            pass
        daemon.settle(lambda: None)
        return seconds, measure(daemon)


def at_rest(daemon):
    """(mean Pss of a child in MiB, CPU of all children and of the parent in percent of a core)."""
    time.sleep(SETTLED)
    before, began = cpu_of(daemon), time.monotonic()
    time.sleep(REST)
    seconds = time.monotonic() - began
    shares = [100 * (now - then) / seconds for now, then in zip(cpu_of(daemon), before, strict=True)]
    return statistics.mean(map(pss, daemon.pids)) / MIB, *shares


def cpu_of(daemon):
    """CPU seconds of all children together, and of their parent."""
    return sum(map(cpu_seconds, daemon.pids)), cpu_seconds(daemon.parent)


def run(rounds):
    times = [(start(lambda _: None)[0], forks()) for _ in range(rounds)]
    ratios = [ours / theirs for ours, theirs in times]
    yield {
        "case": f"start of {HOSTS} hosts / as many forks",
        "figure": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "goal": 2.0,
        "note": "{:.2f} s / {:.2f} s".format(*map(statistics.median, zip(*times, strict=True))),
    }
    _, (mean, share, parents) = start(at_rest)
    yield {"case": f"Pss of an idle child of {HOSTS}, MiB", "figure": mean, "goal": 3.0}
    yield {
        "case": f"CPU of {HOSTS} idle children, % of a core",
        "figure": share,
        "goal": 0.5,
        "note": f"their parent: {parents:.2f} %",
    }
    _, most = start(lambda daemon: pss(daemon.parent) / MIB, loncChildren="ondemand")
    yield {"case": f"Pss of all, {HOSTS} resting hosts, MiB", "figure": most, "goal": 40.0}
