"""A whole lonc against londs with each fault at each step of the dialogue."""

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
TIMEOUTS = {
    "loncConnectTimeout": 0.4,
    "loncHandshakeTimeout": 0.4,
    "loncRequestTimeout": REQUEST_TIMEOUT,
    "loncQueueTimeout": QUEUE,
    "loncRetryDelay": 0.2,
    "loncRetryMaxDelay": 0.5,
}


@pytest.mark.parametrize("step", range(REQUEST + 1), ids=STEPS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_no_client_hangs_or_gets_a_wrong_reply_and_then_the_host_is_served(machine, fault, step):
    machine.configure(**TIMEOUTS, loncMaxConnections=3)
    healthy = threading.Event()
    over = time.monotonic() + 0.6
    with ScriptedLond(machine.address(1), machine.port, failing_at(step, fault, healthy)):
        machine.run()
        load = Load(
            [machine.sockets / "l1"],
            clients=12,
            requests=1,
            longest=600_000 if fault is deaf else 2000,  # together more than socket buffers hold
            echo=b"",
            until=lambda: time.monotonic() > over,
            tolerated=is_wrong_answer,
        ).run()
        assert load.refused == []
        assert load.longest_wait < QUEUE + REQUEST_TIMEOUT + SLACK
        assert load.lost or fault is merging
        healthy.set()
        eventually(lambda: machine.ask(b"well") == b"well")
        assert machine.crashes() == []
        machine.stop()


@pytest.mark.parametrize("asked", [0, 1], ids=["after the dialogue", "after a reply"])
def test_a_line_from_lond_while_idle_is_never_a_reply(machine, asked):
    machine.configure(**TIMEOUTS, loncMaxConnections=1)
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
        os.kill(child, signal.SIGSTOP)  # so that it sees both at once, in either order
        client.sendall(b"second\n")
        speak.set()
        spoken.wait(10)
        os.kill(child, signal.SIGCONT)
        assert read_line(client) == b"second"
        machine.stop()


def unacknowledged(connection):
    """Bytes that the other side has not acknowledged."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def test_no_wrong_reply_among_very_many(machine):
    print(scenarios.wrong_replies(machine, requests=20_000, seed=1))


def test_a_dead_host_gives_con_lost_at_once_and_is_served_again_when_its_lond_is_up(machine):
    print(scenarios.dead_host(machine, rounds=1))
