"""LON-CAPA's ends in Perl: clients in the way of lonnet, a lond, and what its other programs do to lonc.

The Perl programs are in tests/loncapa/perl. They were written from the protocol, not from lonc's code.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support import preparations
from support.machine import Machine, program

PROGRAMS = Path(__file__).parents[1] / "loncapa" / "perl"
WWW = 48484  # stands for the user www, as whom all of LON-CAPA runs; in no user database
AS_WWW = program(preparations.become, WWW)
PERL = shutil.which("perl")

needs_perl = pytest.mark.skipif(PERL is None, reason="perl is not installed")
needs_cipher = pytest.mark.skipif(
    PERL is None
    or subprocess.run(
        [PERL, "-MCrypt::Cipher::IDEA", "-e1"], capture_output=True, check=False
    ).returncode
    != 0,
    reason="CryptX, the cipher of the Perl programs, is not installed",
)
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become www")


class Site:
    """The Perl programs of a machine; they run as the user `user`, a number, or as that of the tests."""

    def __init__(self, machine: Machine, user: int | None = None):
        self.machine = machine
        self.record = machine.directory / "record"
        self.record.touch()
        self.table = machine.directory / "lond.tab"
        self.table.write_text("a1:dom:access:a1.example.org:127.0.0.1\n")
        self._user = [] if user is None else ["--user", str(user)]
        self._processes: list[subprocess.Popen] = []
        if user is not None:
            os.chown(self.record, user, user)

    def hosts(self, **ids):
        """Write hosts.tab: id=(DNS name, address)."""
        lines = [f"{id_}:dom:library:{name}:{address}\n" for id_, (name, address) in ids.items()]
        self.machine.table.write_text("".join(lines))

    def start_lond(self, *ids, address, dialogue="later", wakes=None):
        arguments = ["--address", address, "--port", self.machine.port, "--table", self.table]
        arguments += ["--record", self.record, "--dialogue", dialogue, *self._user]
        arguments += [*(["--wakes", wakes] if wakes else []), *ids]
        process = self._start("lond.pl", *arguments)
        assert process.stdout.readline() == "lond listens\n"
        return process

    def end(self, process):
        """End a lond and its connections."""
        process.terminate()
        process.wait(20)

    def _start(self, script, *arguments):
        command = [PERL, "-w", PROGRAMS / script, *arguments]
        process = subprocess.Popen([str(each) for each in command], stdout=subprocess.PIPE, text=True)
        self._processes.append(process)
        return process

    def client(self, action, *arguments, lonnet=1, spelled=None, wait=True):
        """Do one action of client.pl and return its output without the last newline."""
        options = [*self._user, "--lonnet", lonnet, *(["--spelled", spelled] if spelled else [])]
        process = self._start("client.pl", *options, self.machine.directory, action, *arguments)
        return self.output(process) if wait else process

    def output(self, process):
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output.removesuffix("\n")

    def start_load(self, *hosts, lonnet=1, **options):
        """Start load.pl; see `Site.figures`."""
        given = [f"--{name}={value}" for name, value in options.items()]
        return self._start(
            "load.pl", *self._user, "--lonnet", lonnet, *given, self.machine.directory, *hosts
        )

    def figures(self, process):
        """The figures that a load prints at its end; a wrong reply fails the test."""
        output = self.output(process)
        assert "wrong:" not in output, output
        return figures(output)

    def counts(self, action):
        """The figures of an action of client.pl."""
        return figures(self.client(action))

    def recorded(self):
        """lond's record: (host id, client id, request); in lines of the dialogue the host is -."""
        return [tuple(line.split("\t")) for line in self.record.read_text().splitlines()]

    def close(self):
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in self._processes:
            process.wait(20)
            if process.stdout is not None:
                process.stdout.close()


def figures(output):
    """NAME=NUMBER lines as a dictionary."""
    pairs = [line.partition("=") for line in output.splitlines()]
    return {name: int(value) for name, equals, value in pairs if equals and value.isdigit()}
