"""The two locks and the pid file; the daemon is a forked process that holds them."""

import os
import resource
import signal
import socket
import time

import pytest
from support.holding import held_elsewhere
from support.machine import in_child

from lonc.configuration import Settings
from lonc.errors import Busy, CannotStart
from lonc.lifecycle.instance import BETWEEN_LOCKS, State, find, hold, make_directories, settled
from lonc.runtime.lock_file import LockFile


@pytest.fixture
def settings(tmp_path):
    return Settings(socket_directory=tmp_path / "sockets", daemons=tmp_path)


def a_daemon(settings, announced=True):
    """A process that is the daemon, and serves if `announced`."""

    def take():
        holding = hold(settings)
        daemon = holding.__enter__()
        if announced:
            daemon.announce()
        return holding

    return held_elsewhere(take)


def _listening_daemon(settings):
    holding = hold(settings)
    holding.__enter__()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(settings.control_file))
    listening.listen()
    return holding, listening


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
    def test_the_pid_file_is_there_while_it_serves(self, settings):
        with hold(settings) as daemon:
            assert not settings.pid_file.exists()
            daemon.announce()
            assert settings.pid_file.read_bytes() == b"%d\n" % os.getpid()
            assert settings.pid_file.stat().st_mode & 0o7777 == 0o644
        assert not settings.pid_file.exists()

    def test_the_pid_file_of_another_program_is_left_alone(self, settings):
        with hold(settings) as daemon:
            daemon.announce()
            settings.pid_file.write_bytes(b"1\n")
        assert settings.pid_file.read_bytes() == b"1\n"
        with hold(settings):
            pass
        assert settings.pid_file.read_bytes() == b"1\n"

    def test_what_a_killed_daemon_left_is_removed(self, settings):
        with a_daemon(settings):
            pass
        assert settings.pid_file.exists()
        with hold(settings):
            assert not settings.pid_file.exists()
        assert find(settings).state is State.NOT_RUNNING

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
        with a_daemon(settings) as pid:
            in_use = pytest.raises(Busy, match=f"sockets is in use by another lonc, pid {pid}")
            with in_use, hold(settings):
                pass

    def test_a_daemon_with_other_sockets_is_another_configurations(self, settings):
        make_directories(settings)
        with held_elsewhere(lambda: LockFile(settings.lock_file)) as pid:
            in_use = pytest.raises(CannotStart, match=f"logs is in use by another lonc, pid {pid}")
            with in_use as why, hold(settings):
                pass
            assert not isinstance(why.value, Busy)
        with hold(settings):  # and the other lock was released
            pass

    def test_what_is_no_file_cannot_be_a_lock(self, settings):
        make_directories(settings)
        settings.lock_file.mkdir()
        with pytest.raises(CannotStart, match=r"cannot open .*: Is a directory"), hold(settings):
            pass

    def test_a_full_disk_is_noticed_before_the_daemon_starts(self, settings):
        def start():
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            with pytest.raises(CannotStart) as why, hold(settings):
                pass
            return str(why.value)

        assert in_child(start) == f"cannot write {settings.lock_file}: File too large"


class TestFinding:
    def test_without_any_file_there_is_no_daemon(self, settings):
        assert find(settings).state is State.NOT_RUNNING

    def test_an_empty_lock_that_is_free(self, settings):
        with hold(settings):
            pass
        assert find(settings).state is State.NOT_RUNNING

    def test_a_daemon_that_serves(self, settings):
        with a_daemon(settings) as pid:
            assert (find(settings).state, find(settings).pid) == (State.RUNNING, pid)
            settings.pid_file.unlink()
            assert find(settings).pid == pid

    def test_a_pid_in_a_free_lock_is_a_daemon_that_was_killed(self, settings):
        with a_daemon(settings):
            pass
        assert find(settings).state is State.DEAD

    def test_held_and_empty_is_starting(self, settings):
        with a_daemon(settings, announced=False) as pid:
            found = find(settings)
            assert (found.state, found.pid) == (State.STARTING, pid)
            assert found.why == f"lonc, pid {pid}, has not finished its start"

    def test_a_daemon_whose_lock_was_removed_is_found_by_its_control_socket(self, settings):
        with held_elsewhere(lambda: _listening_daemon(settings)) as pid:
            settings.lock_file.unlink()
            assert (find(settings).state, find(settings).pid) == (State.RUNNING, pid)

    def test_another_program_at_the_control_socket_is_no_daemon(self, settings):
        make_directories(settings)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(settings.control_file))
            listening.listen()
            assert find(settings).state is State.NOT_RUNNING

    def test_a_socket_directory_in_use_by_another_configurations_daemon(self, settings):
        with a_daemon(settings) as pid:
            settings.lock_file.unlink()
            found = find(settings)
        assert found.state is State.UNKNOWN
        why = f"pid {pid} uses {settings.socket_directory}, and is not the lonc of {settings.daemons}"
        assert found.why == why

    def test_a_lock_that_is_no_file(self, settings):
        make_directories(settings)
        settings.lock_file.mkdir()
        found = find(settings)
        assert (found.state, found.why) == (
            State.UNKNOWN,
            f"cannot read {settings.lock_file}: Is a directory",
        )
        settings.lock_file.rmdir()
        os.mkfifo(settings.lock_file)
        assert find(settings).state is State.NOT_RUNNING  # returns at once

    def test_a_start_that_does_not_settle_is_unknown(self, settings):
        with a_daemon(settings, announced=False):
            assert settled(settings, patience=0.1).state is State.UNKNOWN
        assert settled(settings, patience=0.1).state is State.NOT_RUNNING

    def test_a_start_between_its_two_locks_is_waited_for(self, settings):
        make_directories(settings)
        begun = time.monotonic()
        with held_elsewhere(lambda: LockFile(settings.socket_lock)):
            assert settled(settings, patience=60).state is State.UNKNOWN
        assert time.monotonic() - begun >= BETWEEN_LOCKS
