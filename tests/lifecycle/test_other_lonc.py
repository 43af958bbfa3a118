"""How a lonc that is none of ours is noticed: real processes, files and sockets."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from support.holding import held_elsewhere
from support.machine import eventually

from lonc.configuration import Settings
from lonc.hosts import Host
from lonc.lifecycle.other_lonc import other_lonc

HOSTS = [Host("l1", "dom", "library", "l1.example.org", "127.0.0.1", line=1)]


@pytest.fixture
def settings(tmp_path):
    settings = Settings(socket_directory=tmp_path, daemons=tmp_path, create_socket=tmp_path / "create")
    settings.log_directory.mkdir()
    return settings


@pytest.fixture
def sleeping():
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_nobody(settings):
    assert other_lonc(settings, HOSTS) is None


def test_the_pid_file_names_a_process_that_runs(settings, sleeping):
    settings.pid_file.write_text(f"{sleeping.pid}\n")
    expected = f"process {sleeping.pid} (sleep 60) runs, and {settings.pid_file} names it"
    assert other_lonc(settings, HOSTS) == expected


def test_a_process_that_began_after_the_pid_file_was_written_did_not_write_it(settings, sleeping):
    settings.pid_file.write_text(f"{sleeping.pid}\n")
    os.utime(settings.pid_file, (0, time.time() - 10))
    assert other_lonc(settings, HOSTS) is None


@pytest.mark.parametrize("content", ["", "\n", "nonsense", "-1", "0", "4194305", "9" * 30])
def test_a_pid_file_that_names_no_process(settings, content):
    settings.pid_file.write_text(content)
    assert other_lonc(settings, HOSTS) is None


@pytest.mark.parametrize("name", ["l1", "create"])
def test_a_process_that_accepts_at_a_socket(settings, name):
    def listen():
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(settings.socket_directory / name))
        listening.listen()
        return listening

    with held_elsewhere(listen) as pid:
        sentence = other_lonc(settings, HOSTS)
        assert sentence.startswith(f"process {pid} (")
        assert sentence.endswith(f") accepts clients at {settings.socket_directory / name}")
    assert other_lonc(settings, HOSTS) is None  # the socket of a process that has ended


def test_a_socket_with_a_full_backlog_is_one_that_accepts(settings):
    path = str(settings.socket_directory / "l1")

    def listen():
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen(0)
        return listening

    with held_elsewhere(listen) as pid:
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(path)
        assert f"process {pid} (" in other_lonc(settings, HOSTS)
        for client in clients:
            client.close()


def test_a_child_that_has_the_socket_of_a_parent_that_ended_is_named(settings):
    readable, writable = os.pipe()
    parent = os.fork()
    if parent == 0:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(settings.socket_directory / "l1"))
        listening.listen()
        child = os.fork()
        while child == 0:
            signal.pause()
        os.write(writable, b"%d" % child)
        os._exit(0)
    os.waitpid(parent, 0)
    child = int(os.read(readable, 10))
    os.close(readable)
    os.close(writable)
    try:
        assert f"process {child} (" in other_lonc(settings, HOSTS)
    finally:
        os.kill(child, signal.SIGKILL)
        eventually(lambda: other_lonc(settings, HOSTS) is None)


def test_control_characters_of_a_title_are_escaped(settings):
    command = [sys.executable, "-c", "import time; time.sleep(60)", "\x1b[31m\n"]
    process = subprocess.Popen(command)
    try:
        settings.pid_file.write_text(f"{process.pid}\n")
        sentence = other_lonc(settings, HOSTS)
        assert "sleep(60) \\x1b[31m" in sentence
        assert sentence.isprintable()
    finally:
        process.kill()
        process.wait()
