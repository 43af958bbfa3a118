"""Members of the group of `delayed/` act on files of others, and put theirs in the daemon's way."""

import grp
import os
import pwd
import stat

import pytest
from support.machine import eventually, in_child

from lonc import lonnet
from lonc.spool import spool

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs users of its own")

NOBODY, DAEMON = pwd.getpwnam("nobody"), grp.getgrnam("daemon").gr_gid
ALICE, MALLORY = 54321, 54322


def as_user(uid, function):
    """The result of `function` as that user in the group of `delayed/`."""

    def run():
        os.setgroups([])
        os.setresgid(DAEMON, DAEMON, DAEMON)
        os.setresuid(uid, uid, uid)
        try:
            return function() or "done"
        except OSError as error:
            return error.strerror

    return in_child(run)


@pytest.fixture
def shared(public):
    """A daemon of its own user; members of its group save requests, and lond is away."""
    public.configure(loncUser="nobody", loncGroup="daemon", loncDelayedInterval=0.1)
    return public


@pytest.fixture
def saved(shared):
    """A file that Alice has saved."""
    shared.start()
    settings = shared.settings()
    save = lambda: lonnet.critical("put:a:b:c:d=1", "l1", settings=settings).decode()  # noqa: E731
    assert as_user(ALICE, save) == "con_delayed"
    (name,) = spool.waiting(settings.delayed_directory)[0]
    return settings.delayed_directory / name.text


@pytest.mark.parametrize(
    ("attack", "refusal"),
    [
        (lambda file: file.unlink(), "Operation not permitted"),
        (lambda file: file.rename(file.with_name("elsewhere")), "Operation not permitted"),
        (lambda file: os.rename(_own(file), file), "Operation not permitted"),
        (lambda file: file.write_bytes(b"put:a:b:c:d=6\n"), "Permission denied"),
        (lambda file: os.truncate(file, 0), "Permission denied"),
        (lambda file: os.rename(file.parent / "bad", file.parent / "x"), "Operation not permitted"),
    ],
    ids=["remove", "rename", "replace", "alter", "empty", "rename bad/"],
)
def test_a_member_cannot_touch_the_file_of_another(shared, saved, attack, refusal):
    impossible = saved.with_name("impossible")
    impossible.touch()
    eventually((saved.parent / "bad" / "impossible").exists)
    assert as_user(MALLORY, lambda: attack(saved)) == refusal
    assert saved.read_bytes() == b"put:a:b:c:d=1\n"
    shared.start_lond("l1")
    eventually(lambda: not saved.exists())  # the daemon, which owns the directory, removes it
    assert ":S:l1:put:a:b:c:d=1:" in shared.settings().perm_log.read_text()


def _own(file):
    mine = file.with_name("mine")
    mine.write_bytes(b"put:mallory\n")
    return mine


@pytest.mark.parametrize("kind", ["directory", "link", "file"])
def test_a_members_bad_keeps_no_daemon_from_starting_and_gets_nothing(shared, kind):
    settings = shared.settings()
    shared.start()
    shared.stop()
    delayed = settings.delayed_directory
    place = shared.directory / "place"
    place.mkdir()
    place.chmod(0o777)

    def plant():
        if kind == "directory":
            (delayed / "bad").mkdir()
            (delayed / "bad").chmod(0o777)
        elif kind == "link":
            (delayed / "bad").symlink_to(place)
        else:
            (delayed / "bad").touch()

    assert as_user(MALLORY, plant) == "done"
    assert shared.command("check").stdout.count(b"will not start") == 0
    shared.start()
    (delayed / "impossible").write_text("precious")
    eventually((delayed / "bad" / "impossible").exists)
    found = (delayed / "bad").lstat()
    assert stat.S_ISDIR(found.st_mode)
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (NOBODY.pw_uid, 0o700)
    assert os.listdir(place) == []
    assert as_user(MALLORY, lambda: os.listdir(delayed / "bad") and None) == "Permission denied"
