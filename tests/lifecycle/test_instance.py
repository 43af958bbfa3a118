"""The two locks and the pid file, held by this process in place of a daemon."""

import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from support.machine import eventually, in_child

from lonc.configuration import Settings
from lonc.errors import Busy, CannotStart
from lonc.lifecycle.instance import (
    LOCK_WITHIN,
    TITLE,
    State,
    find,
    hold,
    make_directories,
    settled,
)


@pytest.fixture
def settings(tmp_path):
    return Settings(socket_directory=tmp_path / "sockets", daemons=tmp_path)


@contextmanager
def locked(path):
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield
    os.close(fd)


@pytest.fixture(autouse=True)
def in_time():
    """A call that blocks, such as an open of a FIFO or a lock, fails its test after 30 seconds."""

    def late(*_):
        raise AssertionError("a call blocks")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class TestHolding:
    def test_the_pid_file_is_empty_before_and_after(self, settings):
        with hold(settings) as write_pid:
            assert settings.pid_file.read_bytes() == b""
            write_pid(b"12345\n")
            write_pid(b"67\n")
            assert settings.pid_file.read_bytes() == b"67\n"
        assert settings.pid_file.read_bytes() == b""

    def test_missing_directories_are_made_with_their_modes_whatever_the_umask(self, settings):
        before = os.umask(0o777)
        try:
            make_directories(settings)
        finally:
            assert os.umask(before) == 0o777
        for directory in (settings.socket_directory, settings.log_directory):
            assert directory.stat().st_mode & 0o7777 == 0o750
        with hold(settings):
            assert settings.delayed_directory.is_dir()

    def test_a_directory_that_cannot_be_made(self, settings, tmp_path):
        (tmp_path / "logs").touch()
        with pytest.raises(CannotStart), hold(settings):
            pass

    def test_another_daemon_is_busy(self, settings):
        in_use = pytest.raises(Busy, match="sockets is in use by another lonc")
        with hold(settings), in_use, hold(settings):
            pass

    def test_a_pid_file_that_stays_locked_is_another_configurations(self, settings):
        make_directories(settings)
        settings.pid_file.touch()
        in_use = pytest.raises(CannotStart, match=r"lonc\.pid is in use")
        begun = time.monotonic()
        with locked(settings.pid_file), in_use as why, hold(settings):
            pass
        assert not isinstance(why.value, Busy)
        assert time.monotonic() - begun >= LOCK_WITHIN
        with hold(settings):  # and the other lock was released
            pass

    def test_a_full_disk_is_noticed_before_the_daemon_starts(self, settings):
        def start():
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            with pytest.raises(CannotStart) as why, hold(settings):
                pass
            return str(why.value)

        assert in_child(start) == f"cannot write {settings.pid_file}: File too large"


LISTEN = """
import socket, sys, time
from setproctitle import setproctitle
setproctitle(sys.argv[2])
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
time.sleep(60)
"""


@contextmanager
def listening_parent(settings):
    """A process with the title of a parent that listens at the control socket; yields its pid."""
    command = [sys.executable, "-c", LISTEN, str(settings.control_file), TITLE.decode()]
    with subprocess.Popen(command) as parent:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                eventually(lambda: probe.connect_ex(str(settings.control_file)) == 0)
            yield parent.pid
        finally:
            parent.kill()


class TestFinding:
    def test_without_any_file_there_is_no_daemon(self, settings):
        assert find(settings).state is State.NOT_RUNNING

    def test_an_empty_pid_file_without_a_lock(self, settings):
        with hold(settings):
            pass
        assert find(settings).state is State.NOT_RUNNING

    def test_a_pid_without_a_lock_is_a_daemon_that_was_killed(self, settings):
        with hold(settings):
            pass
        settings.pid_file.write_bytes(b"1\n")
        assert find(settings).state is State.DEAD

    def test_locked_and_empty_is_starting(self, settings):
        with hold(settings):
            found = find(settings)
            assert (found.state, found.pid) == (State.STARTING, None)
            assert found.why == f"{settings.pid_file} is locked, and there is no pid in it"

    @pytest.mark.parametrize("text", ["own", "nonsense", "\N{ARABIC-INDIC DIGIT THREE}"], ids=ascii)
    def test_the_pid_of_another_program_is_not_a_daemon(self, settings, text):
        content = b"%d" % os.getpid() if text == "own" else text.encode()
        with hold(settings) as write_pid:
            write_pid(content)
            found = find(settings)
        assert (found.state, found.pid) == (State.STARTING, None)
        assert found.why.endswith(f"there is no lonc {content.decode()}")

    def test_the_pid_of_a_parent_is_a_daemon_only_in_ascii_digits(self, settings):
        with subprocess.Popen([TITLE, "60"], executable="/bin/sleep") as parent:
            try:
                in_arabic = "".join(
                    chr(ord("\N{ARABIC-INDIC DIGIT ZERO}") + int(n)) for n in str(parent.pid)
                )
                with hold(settings) as write_pid:
                    write_pid(b"%d\n" % parent.pid)
                    found = find(settings)
                    write_pid(in_arabic.encode())
                    assert find(settings).state is State.STARTING
            finally:
                parent.kill()
        assert (found.state, found.pid) == (State.RUNNING, parent.pid)

    def test_a_parent_that_listens_is_a_daemon_once_the_pid_is_written(self, settings):
        with hold(settings) as write_pid, listening_parent(settings) as pid:
            found = find(settings)
            assert (found.state, found.pid) == (State.STARTING, pid)
            write_pid(b"1\n")
            found = find(settings)
            assert (found.state, found.pid) == (State.RUNNING, pid)
            settings.pid_file.unlink()
            assert find(settings).state is State.RUNNING

    def test_another_program_at_the_control_socket_is_no_daemon(self, settings):
        make_directories(settings)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(settings.control_file))
            listening.listen()
            assert find(settings).state is State.NOT_RUNNING

    def test_a_socket_directory_in_use_without_the_pid_file(self, settings):
        with hold(settings):
            settings.pid_file.unlink()
            found = find(settings)
        assert found.state is State.UNKNOWN
        assert f"not by the lonc of {settings.pid_file}" in found.why

    def test_a_pid_file_that_is_no_file(self, settings):
        make_directories(settings)
        settings.pid_file.mkdir()
        assert find(settings).state is State.UNKNOWN
        settings.pid_file.rmdir()
        os.mkfifo(settings.pid_file)
        find(settings)  # returns at once

    def test_a_start_that_does_not_settle_is_unknown(self, settings):
        with hold(settings):
            assert settled(settings, patience=0.1).state is State.UNKNOWN
        assert settled(settings, patience=0.1).state is State.NOT_RUNNING

    def test_a_start_between_its_two_locks_is_waited_for(self, settings):
        make_directories(settings)
        begun = time.monotonic()
        with locked(settings.socket_directory):
            assert settled(settings, patience=60).state is State.UNKNOWN
        assert time.monotonic() - begun >= LOCK_WITHIN
