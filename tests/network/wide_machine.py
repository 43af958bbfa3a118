"""A machine whose lonc runs in one namespace of a Wan, and its londs in the other."""

import contextlib
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from network.emulator import REMOTE_ADDRESSES
from network.nameserver import nameservers
from support.machine import LONC, Machine, eventually
from support.scripted_lond import ScriptedLond

from lonc.configuration import Settings

LOND = Path(__file__).with_name("lond.py")
PORT = 5663
KNOWN_SETTINGS = frozenset(each.metadata["declaration"].name for each in fields(Settings))
NAME = "lond.example.org"


class Lond:
    """A process of lond.py."""

    def __init__(self, process, record):
        self.process = process
        self._record = record

    def carried_out(self):
        """The requests `put:…` in the order of their arrival, repetitions included."""
        return self._record.read_bytes().splitlines()

    def stop(self):
        """SIGSTOP: its kernel goes on to acknowledge what arrives, lond reads nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        """SIGKILL: its connections end with RST, which does not arrive while the network is down."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class WideMachine(Machine):
    """A Machine that runs its lonc on the local side of `wan`.

    The hosts of its table, at most four, are at 10.99.0.2, 10.99.0.3… on the remote side.
    """

    def __init__(self, directory, wan):
        self.wan = wan
        self._stack = contextlib.ExitStack()
        self._files = []  # pairs (source, target): mounted for lonc
        super().__init__(directory)
        self.port = PORT
        self.configure()

    def configure(self, **settings):
        """Settings that this version of lonc does not have are left out. `loncSyncInterval` is 1, as by
        default: lond.py answers `ping`."""
        settings = {"loncSyncInterval": 1, **settings}
        super().configure(**{name: settings[name] for name in settings if name in KNOWN_SETTINGS})

    def address(self, number):
        return REMOTE_ADDRESSES[number - 1]

    def run(self, wait=True, program=LONC, **options):
        return super().run(wait, self.wan.local.inside(program, self._files), **options)

    def lond(self, number=1, options=()):
        """Start lond.py at the address of that number; a later one there appends to the same record."""
        record = self.directory / f"record.{number}"
        record.touch()
        command = [sys.executable, LOND, self.address(number), self.port, "--record", record, *options]
        process = subprocess.Popen(self.wan.remote.inside(command), stdout=subprocess.PIPE)
        self._processes.append(process)
        assert process.stdout.readline() == b"listens\n"
        return Lond(process, record)

    def demo_lond(self, host="l1", *arguments):
        """Start the demo's lond, `lonc lond HOST …`, on the remote side."""
        command = [*LONC, "-c", self.configuration, "lond", host, *arguments]
        process = subprocess.Popen(self.wan.remote.inside(command), stdout=subprocess.PIPE)
        self._processes.append(process)
        assert b" listens at " in process.stdout.readline()
        return process

    def scripted_lond(self, script, number=1):
        """A ScriptedLond at the address of that number; only its sockets are on the remote side."""
        with self.wan.remote.entered():
            return ScriptedLond(self.address(number), self.port, script)

    def by_name(self, addresses, silent_first=False):
        """Name l1 in the table without an address. Returns the nameserver that answers with `addresses`.

        With `silent_first` it is the second one, and the first never answers. Call it before `run`.
        """
        self.table.write_text(f"l1:dom:library:{NAME}\n")
        servers = {"127.0.0.2": [], "127.0.0.3": addresses}
        if not silent_first:
            del servers["127.0.0.2"]
        made = self._stack.enter_context(nameservers(self.wan.local, servers))
        file = self.directory / "resolv.conf"
        file.write_text("".join(f"nameserver {each}\n" for each in servers))
        self._files = [(file, "/etc/resolv.conf")]
        return made["127.0.0.3"]

    def haproxy(self, user_timeout=None):
        """Start HAProxy in TCP mode in lonc's place; returns the path of its UNIX socket.

        `user_timeout` is its `tcp-ut` towards lond, such as "10s".
        """
        server = f"{self.address(1)}:{self.port}" + (f" tcp-ut {user_timeout}" if user_timeout else "")
        path = self.directory / "haproxy.socket"
        file = self.directory / "haproxy.cfg"
        file.write_text(
            "global\n  nbthread 1\n  maxconn 5000\ndefaults\n  mode tcp\n  timeout connect 5s\n"
            "  timeout client 1h\n  timeout server 1h\n"
            f"listen lond\n  bind unix@{path}\n  server lond {server}\n"
        )
        command = ["haproxy", "-q", "-db", "-f", file]
        self._processes.append(subprocess.Popen(self.wan.local.inside(command)))
        eventually(path.exists)
        return path

    def state(self, host="l1"):
        return self.status(host)["state"]

    def end(self):
        for process in self._processes:  # a stopped one cannot be ended otherwise
            if isinstance(process, subprocess.Popen) and process.poll() is None:
                process.send_signal(signal.SIGCONT)
        with self._stack:
            try:
                self.wan.calm()
            finally:
                super().end()


def haproxy_is_here():
    return shutil.which("haproxy") is not None
