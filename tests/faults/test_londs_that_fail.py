"""A whole lonc against londs that do everything wrong that there is, at each step of the dialogue."""

import fcntl
import os
import signal
import sys
import termios
import threading
import time

import pytest
from faults import scenarios
from faults.failing_lond import FAULTS, REQUEST, STEPS, STRAY, deaf, failing_at, is_wrong_answer, merging
from support.load import Load
from support.machine import eventually, read_line
from support.scripted_lond import ScriptedLond

QUEUE, REQUEST_TIMEOUT = 0.8, 0.4
SLACK = 10.0  # seconds; who is forgotten waits for ever
PATIENCE = {
    "loncConnectTimeout": 0.4,
    "loncHandshakeTimeout": 0.4,
    "loncRequestTimeout": REQUEST_TIMEOUT,
    "loncQueueTimeout": QUEUE,
    "loncRetryDelay": 0.2,
    "loncRetryMaxDelay": 0.5,
}


@pytest.mark.parametrize("step", range(REQUEST + 1), ids=STEPS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_nobody_hangs_or_meets_a_strangers_reply_and_then_all_is_well(machine, fault, step):
    machine.configure(**PATIENCE, loncMaxConnections=3)
    well = threading.Event()
    over = time.monotonic() + 0.6
    with ScriptedLond(machine.address(1), machine.port, failing_at(step, fault, well)):
        machine.run()
        load = Load(
            [machine.sockets / "l1"],
            clients=12,
            requests=1,
            longest=600_000 if fault is deaf else 2000,  # more than sockets hold, together
            echo=b"",
            until=lambda: time.monotonic() > over,
            tolerated=is_wrong_answer,
        ).run()
        assert load.refused == []
        assert load.longest_wait < QUEUE + REQUEST_TIMEOUT + SLACK
        assert load.lost or fault is merging
        well.set()
        eventually(lambda: machine.ask(b"well") == b"well")
        assert "CRITICAL" not in machine.log()
        machine.stop()


@pytest.mark.parametrize("asked", [0, 1], ids=["after the dialogue", "after a reply"])
def test_what_lond_says_while_idle_is_nobodys_reply(machine, asked):
    machine.configure(**PATIENCE, loncMaxConnections=1)
    speak, spoken = threading.Event(), threading.Event()

    def script(peer):
        peer.greet()
        if not spoken.is_set():
            for _ in range(asked):
                peer.say(peer.hear())
            speak.wait(10)
            peer.say(STRAY)
            eventually(lambda: unacknowledged(peer.socket) == 0)
            spoken.set()
        peer.echo()

    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        eventually(lambda: machine.status()["connections"] == {"Idle": 1})
        client = machine.connect()
        for number in range(asked):
            client.sendall(b"first %d\n" % number)
            assert read_line(client) == b"first %d" % number
        child = machine.children()["l1"]
        os.kill(child, signal.SIGSTOP)  # so that it sees both at once, and the request first or last
        client.sendall(b"second\n")
        speak.set()
        spoken.wait(10)
        os.kill(child, signal.SIGCONT)
        assert read_line(client) == b"second"
        machine.stop()


def unacknowledged(connection):
    """How many bytes have not arrived at the other side yet, as far as TCP knows."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def test_no_stranger_among_very_many(machine):
    print(scenarios.strangers(machine, requests=20_000, seed=1))


def test_a_dead_host_is_told_at_once_and_served_again_when_it_is_back(machine):
    print(scenarios.dead_host(machine, rounds=1))
