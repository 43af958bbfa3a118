"""A child that has been taken over, or a program that plays one, ends at most that child."""

import os
import random
import socket

import pytest
from support.machine import asked, eventually, exists
from support.stolen_channel import steal_channel

from lonc.monitoring.status import HostStatus

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can take another's descriptor")


def send_what_is_no_socket(channel):
    with open(os.devnull, "rb") as file:
        socket.send_fds(channel, [b"pong\n"], [file.fileno()])


def send_a_datagram_socket(channel):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        socket.send_fds(channel, [b"pong\n"], [other.fileno()])


def send_sockets_that_nobody_asked_for(channel):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(channel, [b"pong\n"], [ours.fileno(), theirs.fileno()])


def send_nonsense(channel):
    channel.sendall(b"\xff\0\x1b[2J\n")


def send_a_line_without_end(channel):
    try:
        for _ in range(100):
            channel.sendall(b"x" * 65536)
    except OSError:
        pass


def send_the_status_of_another_host(channel):
    channel.sendall(b"status " + HostStatus("l2", "ready").to_line())


def send_statuses_without_end(channel):
    try:
        for _ in range(1000):
            channel.sendall(b"status " + HostStatus("l1", "ready").to_line())
    except OSError:
        pass


def send_deep_json(channel):
    channel.sendall(b"status " + b"[" * 100_000 + b"\n")


def send_last_words_without_end(channel):
    channel.sendall(b"crash " + b"\xff" * 900_000 + b"\nleaving \n")


def hand_over_when_nobody_takes(channel):
    channel.sendall(b"ready\nready\nleaving\nready\n")


ATTACKS = [
    send_what_is_no_socket,
    send_a_datagram_socket,
    send_sockets_that_nobody_asked_for,
    send_nonsense,
    send_a_line_without_end,
    send_the_status_of_another_host,
    send_statuses_without_end,
    send_deep_json,
    send_last_words_without_end,
    hand_over_when_nobody_takes,
]


@pytest.fixture
def served(machine):
    machine.hosts("l1", "l2")
    machine.start_lond("l2")
    machine.run()
    return machine


def attack(machine, send):
    """`send` to the parent as the child of l1. That child alone is replaced."""
    children = machine.children()
    with steal_channel(children["l1"], machine.lonc.pid) as channel:
        channel.settimeout(20)
        send(channel)
        eventually(lambda: not exists(children["l1"]), 20)
    eventually(lambda: machine.children().keys() == {"l1", "l2"}, 20)
    assert machine.lonc.poll() is None, machine.log()
    assert machine.children()["l2"] == children["l2"]
    assert machine.ask(b"ping", "l2") == b"l2"
    assert b'"phase": "running"' in asked(machine, b"status")


@pytest.mark.parametrize("send", ATTACKS)
def test_whatever_a_child_sends_ends_that_child_only(served, send):
    attack(served, send)


def test_any_bytes_of_a_child_end_that_child_at_most(served):
    dice = random.Random(9)
    for _ in range(2):
        data = dice.randbytes(dice.randrange(1, 100_000)) + b"\n\0\n"
        attack(served, lambda channel, data=data: channel.sendall(data))
