"""A member of the group replaces names in `delayed/` all the time, while the daemon carries files out.

Invariant: no file outside changes, no process ends, and each request of another is carried out once.
"""

import contextlib
import grp
import os
import pwd
import random
import signal
import time

import pytest
from support.machine import children_of, eventually, in_child
from support.scripted_lond import ScriptedLond, remembering

from lonc.spool import spool

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs users of its own")

DAEMON = grp.getgrnam("daemon").gr_gid
ALICE, MALLORY = 54321, 54322
SECONDS = 2  # a round
PRECIOUS = "one:line\n"


def become(uid):
    os.setgroups([])
    os.setresgid(DAEMON, DAEMON, DAEMON)
    os.setresuid(uid, uid, uid)


def confuse(delayed, victim, seed):
    """Until killed: make, replace, link and rename files with possible and impossible names."""
    become(MALLORY)
    os.umask(0)
    chance = random.Random(seed)
    (delayed / ".mine").mkdir()
    while True:
        name = f"{chance.randint(1, 5)}.0.1.put.l1" if chance.random() < 0.8 else "impossible"
        path, new = delayed / name, delayed / ".mine" / "new"
        with contextlib.suppress(OSError):
            match chance.randrange(8):
                case 0 | 1 | 2:
                    new.write_bytes(b"put:mallory:x:a\n")
                    os.utime(new, (1, int(name.partition(".")[0])) if name[0].isdigit() else None)
                    new.rename(path)
                case 3:
                    new.symlink_to(victim)
                    new.rename(path)
                case 4:
                    path.unlink()
                case 5:
                    path.hardlink_to(victim)
                case 6:  # a directory cannot be removed as a file; then the name leads elsewhere
                    path.unlink(missing_ok=True)
                    path.mkdir()
                    path.rmdir()
                    path.symlink_to(victim)
                case 7:
                    (delayed / "bad").rename(delayed / ".mine" / "bad")
        with contextlib.suppress(OSError):
            new.unlink()
        with contextlib.suppress(OSError):
            path.rmdir()


def test_nothing_outside_changes_and_nobody_elses_request_is_lost(public, rounds):
    public.configure(
        loncUser="nobody", loncGroup="daemon", loncDelayedInterval=0.1, loncMaxConnections=4
    )
    public.start()
    settings = public.settings()
    delayed = settings.delayed_directory
    victim = public.directory / "victim"
    victim.write_text(PRECIOUS)
    victim.chmod(0o600)
    os.chown(victim, pwd.getpwnam("nobody").pw_uid, 0)  # as the file of keys
    before = victim.stat()
    children = children_of(public.lonc.pid)
    seen, saved = [], []
    pid = os.fork()
    if pid == 0:
        try:
            confuse(delayed, victim, 1)
        finally:
            os._exit(1)

    def save(number):
        become(ALICE)
        spool.save(settings, b"put:alice:%d:a" % number, "l1")
        return "saved"

    try:
        with ScriptedLond(public.address(1), public.port, remembering(seen)):
            end = time.monotonic() + rounds * SECONDS
            while time.monotonic() < end:
                number = len(saved)
                assert in_child(lambda number=number: save(number)) == "saved"
                saved.append(b"put:alice:%d:a" % number)
                time.sleep(0.05)
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            eventually(lambda: len([each for each in seen if b"alice" in each]) >= len(saved), 30)
            public.command("stop")
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert sorted(each for each in seen if b"alice" in each) == sorted(saved)
    assert b"put:mallory:x:a" in seen
    assert PRECIOUS.strip().encode() not in seen
    after = victim.stat()
    assert victim.read_text() == PRECIOUS
    assert (after.st_uid, after.st_mode, after.st_nlink) == (before.st_uid, before.st_mode, 1)
    assert "was killed" not in public.log()
    assert "exited with status" not in public.log()
    assert len(children) == 1
