"""Locks that others hold: on delayed files, and on what stands for the locks of the daemon."""

import fcntl
import os

import pytest
from support.machine import eventually

from lonc.runtime.lock_file import LockFile
from lonc.spool import spool

STRANGER = 54321
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs users of its own")


@pytest.mark.parametrize("kind", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_whoever_can_read_a_delayed_file_cannot_hold_it_up(machine, kind):
    machine.configure(loncDelayedInterval=0.1)
    machine.start()
    settings = machine.settings()
    spool.save(settings, b"put:a:b:c", "l1")
    (name,) = spool.waiting(settings.delayed_directory)[0]
    path = settings.delayed_directory / name.text
    with path.open("rb") as file:
        fcntl.flock(file, kind)
        machine.start_lond("l1")
        eventually(lambda: not path.exists())


@needs_root
def test_an_operator_can_act_on_a_file_that_a_reader_has_locked(machine):
    settings = machine.settings()
    settings.socket_directory.mkdir()
    settings.log_directory.mkdir()
    spool.save(settings, b"put:a:b:c", "l1")
    (name,) = spool.waiting(settings.delayed_directory)[0]
    with (settings.delayed_directory / name.text).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert machine.command("delayed", "drop", name.text).returncode == 0


@pytest.mark.parametrize(
    "which", [lambda settings: settings.lock_file, lambda settings: settings.socket_lock]
)
def test_a_restart_stops_nothing_if_another_process_holds_a_lock(machine, which):
    """Somebody has put a file of his own in place of the lock, and holds it."""
    machine.start()
    pid = machine.lonc.pid
    path = which(machine.settings())
    aside = path.rename(path.with_name("aside"))
    begun, end = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        lock = LockFile(path)
        os.write(begun[1], b"x")
        os.close(end[1])
        os.read(end[0], 1)
        lock.close()
        os._exit(0)
    os.close(end[0])
    try:
        os.read(begun[0], 1)
        refused = machine.command("restart")
        assert refused.returncode != 0
        assert b"is in use by another process, pid " in refused.stderr
        assert machine.lonc.poll() is None
    finally:
        for fd in (end[1], *begun):
            os.close(fd)
        os.waitpid(holder, 0)
    aside.rename(path)
    assert machine.command("restart").returncode == 0
    assert machine.pid_file.read_text() != f"{pid}\n"
    assert machine.command("stop").returncode == 0


@needs_root
@pytest.mark.parametrize(
    "which", [lambda settings: settings.lock_file, lambda settings: settings.socket_lock]
)
def test_a_members_file_in_place_of_a_lock_is_replaced(machine, which):
    """With it open, that member could take the lock at any time."""
    path = which(machine.settings())
    path.parent.mkdir()
    path.touch()
    path.chmod(0o666)
    os.chown(path, STRANGER, STRANGER)
    with path.open("rb+") as planted:
        machine.start()
        assert not os.path.samestat(path.stat(), os.fstat(planted.fileno()))
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, 0o600)
