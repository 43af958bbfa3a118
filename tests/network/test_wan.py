"""The emulator with real packets. Times are only compared with what they must be at least."""

import os
import select
import socket
import subprocess
import time

import pytest
from network.emulator import LOCAL_ADDRESS, REMOTE_ADDRESS6, REMOTE_ADDRESSES
from network.link import BACK, OUT
from network.wan import Wan

REMOTE = REMOTE_ADDRESSES[0]
PORT = 5663


class Connection:
    """A TCP connection from the local machine to the remote one: both of its ends."""

    def __init__(self, wan, address=REMOTE):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with wan.remote.entered():
            self._listening = socket.create_server((address, PORT), family=family)
        with wan.local.entered():
            self.local = socket.socket(family)
        self.local.settimeout(30)
        begun = time.monotonic()
        self.local.connect((address, PORT))
        self.seconds = time.monotonic() - begun
        self.remote, self.client = self._listening.accept()
        self.remote.settimeout(30)
        for each in (self.local, self.remote):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for each in (self.local, self.remote, self._listening):
            each.close()

    def ping(self):
        """Seconds of a byte out and a byte back."""
        begun = time.monotonic()
        self.local.sendall(b"?")
        assert self.remote.recv(1) == b"?"
        self.remote.sendall(b"!")
        assert self.local.recv(1) == b"!"
        return time.monotonic() - begun


def silent(receiving, seconds=0.05):
    return select.select([receiving], [], [], seconds)[0] == []


def arrives(wan, direction, count):
    """Wait until so many packets have come out in that direction since the start."""
    deadline = time.monotonic() + 20
    while wan.counts()[direction].get("arrived", 0) < count:
        assert time.monotonic() < deadline


def test_the_two_machines_reach_each_other_and_not_this_one(wan):
    with Connection(wan) as connection:
        connection.ping()
        assert connection.client[0] == LOCAL_ADDRESS
    with Connection(wan, REMOTE_ADDRESS6) as connection:
        connection.ping()
    with socket.socket() as outside, pytest.raises(OSError, match="Cannot assign requested address"):
        outside.bind((REMOTE, 0))


def test_a_round_trip_takes_the_delays_of_both_directions(wan):
    wan.change(OUT, delay_ms=15)
    wan.change(BACK, delay_ms=25)
    with Connection(wan) as connection:
        assert connection.seconds >= 0.04
        times = [connection.ping() for _ in range(5)]
    assert min(times) >= 0.04


def test_conditions_change_at_run_time(wan):
    with Connection(wan) as connection:
        connection.ping()
        wan.change(delay_ms=30)
        assert connection.ping() >= 0.06


def test_tcp_data_sent_during_a_partition_arrives_after_it(wan):
    with Connection(wan) as connection:
        connection.ping()
        wan.down()
        connection.local.sendall(b"a")
        connection.remote.sendall(b"b")
        assert silent(connection.remote)
        assert silent(connection.local)
        wan.up()
        assert connection.remote.recv(1) == b"a"
        assert connection.local.recv(1) == b"b"
    counts = wan.counts()
    assert counts[OUT]["down"] > 0
    assert counts[BACK]["down"] > 0


def test_one_direction_may_be_down_by_itself(wan):
    with Connection(wan) as connection:
        wan.down(BACK)
        connection.local.sendall(b"a")
        assert connection.remote.recv(1) == b"a"
        connection.remote.sendall(b"b")
        assert silent(connection.local)
        wan.up(BACK)
        assert connection.local.recv(1) == b"b"


def test_a_firewall_that_has_forgotten_a_flow_says_nothing_and_lets_new_ones_through(wan):
    with Connection(wan) as connection:
        connection.ping()
        wan.forget()
        connection.local.sendall(b"a")
        assert silent(connection.remote)
        assert wan.counts()[OUT]["forgotten"] > 0
    with Connection(wan) as another:
        another.ping()


def test_with_loss_all_data_of_tcp_arrives(wan):
    with Connection(wan) as connection:
        wan.change(loss=0.1)
        data = os.urandom(100_000)
        connection.local.sendall(data)
        received = b""
        while len(received) < len(data):
            received += connection.remote.recv(1 << 20)
        assert received == data
    assert wan.counts()[OUT]["lost"] > 0


def test_a_rate_limits_the_throughput(wan):
    with Connection(wan) as connection:
        wan.change(rate=1e6, queue=1_000_000)
        begun = time.monotonic()
        connection.local.sendall(bytes(40_000))
        left = 40_000
        while left:
            left -= len(connection.remote.recv(left))
        assert time.monotonic() - begun >= 8 * 40_000 / 1e6


def test_packets_are_reordered(wan):
    with wan.remote.entered():
        receiving = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with wan.local.entered():
        sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiving, sending:
        receiving.bind((REMOTE, PORT))
        receiving.settimeout(20)
        wan.change(OUT, reorder=0.3, reorder_ms=5)
        for number in range(100):
            sending.sendto(b"%d" % number, (REMOTE, PORT))
            time.sleep(0.0005)
        numbers = [int(receiving.recv(10)) for _ in range(100)]
    assert sorted(numbers) == list(range(100))
    assert numbers != sorted(numbers)


def test_a_program_runs_inside_with_the_process_id_that_it_was_started_with(wan):
    command = ["/bin/sh", "-c", "echo $$; cat /proc/net/dev"]
    with subprocess.Popen(wan.local.inside(command), stdout=subprocess.PIPE, text=True) as process:
        pid, devices = process.stdout.read().split("\n", 1)
    assert int(pid) == process.pid
    assert {line.split(":")[0].strip() for line in devices.splitlines()[2:]} == {"lo", "wan0"}


def test_a_mounted_file_is_visible_only_to_the_program_inside(wan, tmp_path):
    other = tmp_path / "other"
    target = tmp_path / "file"
    other.write_text("other")
    target.write_text("file")
    command = wan.local.inside(["cat", target], files=[(other, target)])
    assert subprocess.check_output(command) == b"other"
    assert target.read_text() == "file"


def test_a_closed_network_leaves_no_process_and_no_namespace():
    made = Wan(delay_ms=5)
    with Connection(made) as connection:
        connection.ping()
        device = os.stat(made.local.path).st_ino
    made.close()
    assert made.process.returncode == 0
    assert not os.path.exists(made.local.path)
    assert device != os.stat("/proc/self/ns/net").st_ino
    assert "wan0" not in dict(socket.if_nameindex()).values()


def test_when_the_test_dies_the_emulator_ends():
    made = Wan()
    made._control.shutdown(socket.SHUT_RDWR)  # as if this process had ended
    assert made.process.wait(20) == 0
    made.close()


def test_a_wrong_condition_ends_the_emulator_with_an_error(capfd):
    with pytest.raises(AssertionError, match="the emulator has ended"):
        Wan(delay=3)
    assert "there is no condition 'delay'" in capfd.readouterr().err
