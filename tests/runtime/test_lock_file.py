"""Locks that real processes hold."""

import fcntl
import os
import stat
import struct

import pytest
from support.holding import held_elsewhere

from lonc.runtime.lock_file import Held, LockFile, look_at_lock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def test_a_lock_that_nobody_holds(path):
    LockFile(path).close()
    assert look_at_lock(path) == (None, b"")


def test_the_kernel_names_the_holder(path):
    with held_elsewhere(lambda: LockFile(path)) as pid:
        assert look_at_lock(path) == (pid, b"")
        with pytest.raises(Held) as held:
            LockFile(path)
        assert held.value.pid == pid
    assert look_at_lock(path) == (None, b"")


def test_a_look_does_not_keep_the_next_one_from_it(path):
    with held_elsewhere(lambda: LockFile(path)):
        look_at_lock(path)
    LockFile(path).close()


def test_a_child_does_not_inherit_it(path):
    lock = LockFile(path)
    child = os.fork()
    if child == 0:
        try:
            pid, _ = look_at_lock(path)
            os._exit(0 if pid == os.getppid() else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lock.close()


def test_only_its_user_can_open_it_whatever_it_was_before(path):
    path.touch()
    path.chmod(0o666)
    LockFile(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_its_content(path):
    lock = LockFile(path)
    lock.write(b"something longer\n")
    lock.write(b"12\n")
    assert lock.read() == b"12\n"
    lock.close()
    assert look_at_lock(path) == (None, b"12\n")


def test_no_link_is_followed(path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        LockFile(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_holder_without_a_pid_is_unknown_and_no_number_of_a_group(path):
    """A lock of an open file description has the pid -1 for the kernel, and for kill(2) that is all."""

    def take():
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        whole = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, whole)
        return [fd]

    with held_elsewhere(take):
        assert look_at_lock(path) == (0, b"")
        with pytest.raises(Held) as held:
            LockFile(path)
        assert held.value.pid == 0
