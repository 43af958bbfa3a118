import contextlib
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from machine import eventually
from scripted_lond import ScriptedLond

from lonc import lonnet
from lonc.configuration import read_settings
from lonc.errors import Misconfigured


@pytest.fixture
def settings(machine):
    """Of a machine whose socket directory exists, with nobody in it."""
    machine.sockets.mkdir()
    settings, faults = read_settings(machine.configuration)
    assert faults == []
    return settings


@pytest.fixture
def listening(machine, settings):
    """The test plays lonc at the socket of l1."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(machine.sockets / "l1"))
    listening.listen(1)
    listening.settimeout(10)
    yield listening
    listening.close()


@pytest.fixture
def in_background():
    """Runs functions in threads and gives their results, when asked."""
    threads = []

    def start(function):
        results = []
        thread = threading.Thread(target=lambda: results.append(function()))
        threads.append(thread)
        thread.start()

        def result():
            thread.join()
            return results[0]

        return result

    yield start
    for thread in threads:
        thread.join()


def test_a_request_and_its_reply(machine):
    machine.start_lond("l1")
    machine.run()
    settings, _ = read_settings(machine.configuration)
    assert lonnet.reply("ping", "l1", settings=settings) == b"l1"
    assert lonnet.reply(b"echo:\xff", "l1", settings=settings) == b"\xff"
    assert lonnet.reply("echo:", "l1", settings=settings) == b""
    assert lonnet.reply("echo:ü", "l1", settings=settings) == "ü".encode()
    big = os.urandom(1 << 20).hex().encode()
    assert lonnet.reply(b"echo:" + big, "l1", settings=settings) == big


def test_the_usual_configuration_is_found_in_the_environment(machine):
    machine.start_lond("l1")
    machine.run()
    program = "from lonc import lonnet; print(lonnet.reply('ping', 'l1'))"
    environment = {**os.environ, "LONC_CONF": str(machine.configuration)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert done.stdout == b"b'l1'\n"
    machine.configuration.write_text(machine.configuration.read_text() + "PerlSetVar loncTypo 1\n")
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert done.stdout == b"b'l1'\n"  # what does not disturb lonc does not disturb who asks it


def test_without_a_configuration_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("LONC_CONF", str(tmp_path / "none"))
    lonnet._usual_settings.cache_clear()
    with pytest.raises(Misconfigured, match="none: No such file or directory"):
        lonnet.reply("ping", "l1")


def test_a_request_is_one_line(settings):
    with pytest.raises(ValueError, match="newline"):
        lonnet.reply("one\ntwo", "l1", settings=settings)


def test_a_host_that_is_not_in_the_table(settings):
    begun = time.monotonic()
    assert lonnet.reply("ping", "nobody", settings=settings) == b"no_such_host"
    assert time.monotonic() - begun < lonnet.RESTART


def test_a_table_that_has_faults_or_is_gone_is_no_proof_that_there_is_no_such_host(machine, settings):
    machine.table.write_text("l1:broken\n")
    assert lonnet.reply("ping", "l1", settings=settings, timeout=0.1) == b"con_lost"
    machine.table.unlink()
    assert lonnet.reply("ping", "l1", settings=settings, timeout=0.1) == b"con_lost"


def test_a_timeout_may_be_as_long_as_one_likes(machine):
    machine.start_lond("l1")
    machine.run()
    settings, _ = read_settings(machine.configuration)
    assert lonnet.reply("ping", "l1", settings=settings, timeout=float("inf")) == b"l1"


@pytest.mark.parametrize("host", ["", "../sockets/l1", "l1\0", "l" * 200])
def test_what_can_be_no_host_is_not_looked_for(settings, host):
    assert lonnet.reply("ping", host, settings=settings) in (b"no_such_host", b"con_lost")


def test_a_lonc_that_always_closes_is_not_asked_without_pause(settings, listening, in_background):
    result = in_background(lambda: lonnet.reply(b"x" * 500_000, "l1", timeout=1, settings=settings))
    tries = 0
    listening.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while listening.accept()[0].close() is None:
            tries += 1
    assert result() == b"con_lost"
    assert 10 < tries <= 1 / lonnet.PAUSE + 1


def test_a_missing_socket_is_waited_for_as_long_as_a_restart_takes(settings):
    begun = time.monotonic()
    assert lonnet.reply("ping", "l1", settings=settings) == b"con_lost"
    assert 1.9 < time.monotonic() - begun < 4


def test_a_lonc_that_comes_back_in_time_is_asked(machine, settings, in_background):
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(machine.sockets / "l1"))
    dead.close()  # a socket that refuses, as a killed lonc leaves it
    result = in_background(lambda: lonnet.reply("ping", "l1", settings=settings))
    machine.start_lond("l1")
    machine.run()
    assert result() == b"l1"


def test_a_full_backlog_is_tried_again_until_its_own_deadline(
    machine, settings, listening, in_background
):
    waiting = [socket.socket(socket.AF_UNIX)]
    waiting[0].setblocking(False)
    while waiting[-1].connect_ex(str(machine.sockets / "l1")) == 0:
        waiting.append(socket.socket(socket.AF_UNIX))
        waiting[-1].setblocking(False)
    begun = time.monotonic()
    assert lonnet.reply("ping", "l1", timeout=3, settings=settings) == b"con_lost"
    assert 2.9 < time.monotonic() - begun < 5
    result = in_background(lambda: lonnet.reply("ping", "l1", timeout=20, settings=settings))
    for _ in range(len(waiting) - 1):
        listening.accept()[0].close()
    connection, _ = listening.accept()
    with connection:
        assert connection.recv(100) == b"ping\n"
        connection.sendall(b"l1\n")
    assert result() == b"l1"
    for client in waiting:
        client.close()


def test_a_request_that_could_not_be_sent_whole_is_asked_again(settings, listening, in_background):
    big = b"x" * 5_000_000
    result = in_background(lambda: lonnet.reply(big, "l1", settings=settings))
    connection, _ = listening.accept()
    connection.recv(1000)
    connection.close()
    connection, _ = listening.accept()
    with connection:
        received = 0
        while received <= len(big):
            received += len(connection.recv(1 << 20))
        connection.sendall(b"second\n")
    assert result() == b"second"


def test_a_request_that_was_sent_is_not_sent_again(settings, listening, in_background):
    result = in_background(lambda: lonnet.reply("ping", "l1", settings=settings))
    connection, _ = listening.accept()
    assert connection.recv(100) == b"ping\n"
    connection.close()
    assert result() == b"con_lost"
    listening.settimeout(0.2)
    with pytest.raises(TimeoutError):
        listening.accept()


def test_half_a_reply_is_none(settings, listening, in_background):
    result = in_background(lambda: lonnet.reply("ping", "l1", settings=settings))
    connection, _ = listening.accept()
    connection.recv(100)
    connection.sendall(b"half")
    connection.close()
    assert result() == b"con_lost"


def test_a_request_that_is_too_long_is_told_even_while_it_is_being_sent(machine):
    machine.configure(loncMaxRequest=1000)
    machine.start_lond("l1")
    machine.run()
    settings, _ = read_settings(machine.configuration)
    begun = time.monotonic()
    for size in (1001, 10_000_000):
        reply = lonnet.reply(b"x" * size, "l1", settings=settings, timeout=10)
        assert reply == b"error: request too long"
    assert time.monotonic() - begun < 5


def test_a_reply_that_does_not_come_in_time_is_none(machine, in_background):
    with ScriptedLond(
        machine.address(1), machine.port, lambda peer: (peer.greet(), peer.hear(), peer.hear())
    ):
        machine.run()
        settings, _ = read_settings(machine.configuration)
        begun = time.monotonic()
        assert lonnet.reply("ping", "l1", timeout=0.5, settings=settings) == b"con_lost"
        assert time.monotonic() - begun < 2
        eventually(lambda: machine.status()["clients"] == 1)
        machine.stop()
