"""The subjects: lonc, the bare relay, HAProxy. They run on one core, the clients on another."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.machine import BIN_LONC, children_of, eventually, write_configuration

BENCHMARK = Path(__file__).parent
SUBJECT_CORE, OWN_CORE = {0}, {1}
ALL_CORES = set(range(os.cpu_count()))
BACKLOG = 4096


@contextlib.contextmanager
def on_cores(numbers):
    """Processes started meanwhile run on these cores only, as far as they exist."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, numbers & ALL_CORES or ALL_CORES)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid):
    """User and system time of a process of one thread, in seconds.

    From schedstat, in nanoseconds: /proc/PID/stat counts hundredths, too coarse for an idle child.
    """
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def pss(pid):
    """The proportional share of memory, in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("smaps_rollup has no Pss")


def table(directory, addresses):
    """Write a table with one host per address, and make the directories that a configuration needs."""
    for name in ("tabs", "daemons"):
        (directory / name).mkdir()
    lines = [f"h{number}:d:library:x:{address}\n" for number, address in enumerate(addresses)]
    (directory / "tabs" / "hosts.tab").write_text("".join(lines))


class Subject:
    """A program that serves `paths`, over `connections` connections to the listening socket for each.

    `pids` are the processes whose CPU time and memory are measured.
    """

    name = ""
    cores = SUBJECT_CORE
    dialogue = False  # whether it expects lond's part of the dialogue

    def __init__(self, hosts, connections, **settings):
        self.settings = settings
        self.directory = Path(tempfile.mkdtemp(prefix="lonc-benchmark-"))
        self.connections = connections
        self.port = 0
        self.listening = []
        for number in range(hosts):
            address = f"127.7.{number // 250}.{number % 250 + 1}"
            listening = socket.create_server((address, self.port), backlog=BACKLOG)
            self.port = listening.getsockname()[1]
            self.listening.append(listening)
        self.addresses = [each.getsockname()[0] for each in self.listening]
        self.paths = [self.directory / "sockets" / f"h{number}" for number in range(hosts)]
        with on_cores(self.cores):
            self.process = subprocess.Popen(self.command(), stdout=subprocess.DEVNULL)
        self.pids = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def command(self):
        raise NotImplementedError

    def settle(self, meanwhile):
        """Wait until every host is served; call `meanwhile` between checks, so that londs can reply."""

        def serves():
            meanwhile()
            return self.serves()

        eventually(serves, 60)
        self.pids = self.workers()

    def serves(self):
        return all(path.exists() for path in self.paths)

    def workers(self):
        return children_of(self.process.pid)

    def cpu_seconds(self):
        return sum(map(cpu_seconds, self.pids))

    def close(self):
        for pid in self.pids if self.process.pid not in self.pids else []:
            os.kill(pid, 9)
        self.process.kill()
        self.process.wait()
        for listening in self.listening:
            listening.close()
        shutil.rmtree(self.directory)


class Lonc(Subject):
    name = "lonc"
    dialogue = True

    def command(self):
        values = {"loncMaxConnections": self.connections, "loncLogLevel": "error", **self.settings}
        table(self.directory, self.addresses)
        return [BIN_LONC, "-c", write_configuration(self.directory, self.port, **values), "run"]

    def serves(self):
        pid_file = self.directory / "daemons" / "logs" / "lonc.pid"
        return pid_file.exists() and pid_file.read_text()

    def close(self):
        try:
            self.process.terminate()
            self.process.wait(60)
        finally:
            self.pids = []
            super().close()


class Relay(Subject):
    name = "relay"

    def command(self):
        (self.directory / "sockets").mkdir()
        places = []
        for path, address in zip(self.paths, self.addresses, strict=True):
            places += [path, address, str(self.port)]
        return [sys.executable, BENCHMARK / "relay.py", str(self.connections), *places]


class HAProxy(Subject):
    """HAProxy in TCP mode, with one thread: each client has a connection of its own to lond."""

    name = "haproxy"

    def command(self):
        (self.directory / "sockets").mkdir()
        lines = ["global", "  nbthread 1", "  maxconn 5000", "defaults", "  mode tcp"]
        lines += ["  timeout connect 5s", "  timeout client 1h", "  timeout server 1h"]
        for path, address in zip(self.paths, self.addresses, strict=True):
            lines += [
                f"listen {path.name}",
                f"  bind unix@{path}",
                f"  server lond {address}:{self.port}",
            ]
        file = self.directory / "haproxy.cfg"
        file.write_text("\n".join(lines) + "\n")
        return ["haproxy", "-q", "-db", "-f", file]

    def workers(self):
        return [self.process.pid]


def haproxy_is_here():
    return shutil.which("haproxy") is not None
