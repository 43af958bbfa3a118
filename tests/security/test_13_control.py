"""Whatever the daemon says, or whoever plays it: commands end in time, with a sentence."""

import os
import socket
import time

import pytest
from support import preparations
from support.false_daemon import false_daemon
from support.machine import exists, program, title

from lonc.errors import LoncError
from lonc.lifecycle import control_client
from lonc.lifecycle.control_client import ask
from lonc.monitoring.status import HostStatus, Phase, Report

SINCE = "2026-11-24T02:00:00+00:00"
REPORT = Report(Phase.RUNNING, 41, "1.0", SINCE, [HostStatus("l1", "ready")], {"l2": 1}).to_line()

NONSENSE = [
    b"\n",
    b"nonsense\n",
    b"[]\n",
    b"{}\n",
    b"null\n",
    b'"text"\n',
    b"\xff\xfe\n",
    b"[" * 100_000 + b"\n",
    b'{"exit": "0", "text": "fine"}\n',
    b'{"exit": 0, "text": 1}\n',
    b'{"exit": 1e9, "text": "x"}\n',
    b'{"exit": 100000, "text": "x"}\n',
    b'{"exit": 0}\n',
    b"1\n2\n",
]
ORDERS = ("reload", "retry")
REPORTS = ("status", "check-health", "config --running")


@pytest.mark.parametrize("answer", NONSENSE)
def test_a_nonsense_answer_is_a_sentence(machine, answer):
    with false_daemon(machine, answer):
        for command in (*ORDERS, *REPORTS):
            done = machine.command(*command.split())
            said = (done.stdout + done.stderr).decode()
            assert "Traceback" not in said, said
            if command == "config --running" and answer.startswith(b"{"):
                continue  # settings that are not known here
            assert "its answer cannot be read" in said, (command, said)
            assert done.returncode in (1, 3, 4)


def test_an_endless_answer_ends_at_its_limit(machine):
    with false_daemon(machine, b"x" * (1 << 16), size=1 << 40):
        begun = time.monotonic()
        done = machine.command("status")
        assert time.monotonic() - begun < control_client.ANSWER_WITHIN + 10
        assert done.returncode == 4
        why = done.stderr.decode()
        assert "is longer than 64 MiB" in why or "no answer" in why, why


def test_the_limit_is_in_bytes(machine):
    control_client.MAX_ANSWER = 1000
    with false_daemon(machine, b"x" * 700 + b"\n"):
        assert len(ask(machine.settings(), "status")) == 701
    with false_daemon(machine, b"x" * 1000 + b"\n"), pytest.raises(LoncError, match="longer than"):
        ask(machine.settings(), "status")


def test_an_answer_that_comes_drop_by_drop_ends_in_time(machine):
    with false_daemon(machine, b"x", size=1 << 40, pause=0.05):
        begun = time.monotonic()
        with pytest.raises(LoncError, match="no answer"):
            ask(machine.settings(), "status", timeout=0.5)
        assert time.monotonic() - begun < 5


LIES = [
    b'{"exit": 0, "text": "stopping", "drained_within": 1e9}\n',
    b'{"exit": 0, "text": "stopping", "drained_within": -1}\n',
    b'{"exit": 0, "text": "stopping", "drained_within": NaN}\n',
    b'{"exit": 0, "text": "stopping", "drained_within": Infinity}\n',
    b'{"exit": 0, "text": "stopping", "drained_within": "soon"}\n',
    b'{"exit": 0, "text": "stopping", "drained_within": true}\n',
    b'{"exit": 1, "text": "I will not"}\n',
    b"[]\n",
    b"nonsense\n",
    b"",
]


@pytest.mark.parametrize("answer", LIES)
def test_stop_ends_a_broken_parent_whatever_it_says(machine, answer):
    machine.configure(loncDrainTimeout=0.1)
    impatient = program(preparations.ask_impatiently)
    with false_daemon(machine, answer, size=len(answer)) as broken:
        done = machine.command("stop", program=impatient, timeout=30)
        assert (done.returncode, done.stdout) == (0, b"lonc did not end in time, and was killed\n")
        assert not exists(broken.pid)


def test_a_process_that_does_not_hold_the_lock_is_not_asked(machine):
    machine.start()
    control = machine.settings().control_file
    control.unlink()
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(str(control))
        impostor.listen()
        with pytest.raises(LoncError, match=f"process {os.getpid()} listens at .*, and is not lonc"):
            ask(machine.settings(), "status")
        impostor.setblocking(False)
        connection, _ = impostor.accept()
        assert connection.recv(1000) == b""  # no order was sent
        connection.close()
    assert machine.command("stop").stdout == b"lonc is stopped\n"  # by a signal to the lock's holder


def refused(error):
    return program(preparations.refuse_pidfd, error)


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
class TestWithoutPidfd:
    def test_stop_orders_by_the_socket_and_waits_for_the_lock(self, machine, error):
        machine.start()
        pid = machine.lonc.pid
        done = machine.command("stop", program=refused(error))
        assert (done.returncode, done.stdout, done.stderr) == (0, b"lonc is stopped\n", b"")
        assert not exists(pid)
        assert machine.command("stop", program=refused(error)).stdout == b"lonc is not running\n"

    def test_stop_kills_a_broken_parent(self, machine, error):
        machine.configure(loncDrainTimeout=0.1)
        impatient = program(preparations.refuse_pidfd, error, True)
        with false_daemon(machine, b"nonsense\n") as broken:
            done = machine.command("stop", program=impatient, timeout=30)
            assert done.stdout == b"lonc did not end in time, and was killed\n"
            assert not exists(broken.pid)


def test_with_an_empty_environment_the_daemon_is_found_and_stopped(machine):
    """setproctitle finds the memory of the title by the environment, and does nothing without one."""
    done = machine.command("start", env={})
    assert (done.returncode, done.stderr) == (0, b"")
    pid = int(machine.pid_file.read_text())
    assert not title(pid).startswith("lonc: parent")
    for environment in ({}, None):
        options = {} if environment is None else {"env": environment}
        status = machine.command("status", **options)
        assert status.returncode == 0, status
        assert f"pid {pid}," in status.stdout.decode()
        assert machine.command("reload", **options).returncode == 0
        assert machine.command("retry", "l1", **options).returncode == 0
        again = machine.command("start", **options)
        assert again.stdout.decode() == f"lonc is running already, pid {pid}\n"
    done = machine.command("stop", env={})
    assert (done.returncode, done.stdout) == (0, b"lonc is stopped\n")
    assert not exists(pid)
    assert machine.command("status").returncode == 3
