"""Root writes where others own: the status page in a directory of another user, and what leads to it."""

import os
import shutil
import signal
import stat
from pathlib import Path

import pytest
from support.machine import eventually

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs users of its own")

ATTACKER, VICTIM = 54321, 54322
PRECIOUS = "root's own\n"


@pytest.fixture
def running(public):
    public.start()
    return public


@pytest.fixture
def page(running):
    """The attacker's directory, in one of root's."""
    place = running.directory / "www" / "lon-status"
    place.mkdir(parents=True)
    os.chown(place, ATTACKER, ATTACKER)
    return place


@pytest.fixture
def victim(running):
    """A file that only root may read."""
    file = running.directory / "victim"
    file.write_text(PRECIOUS)
    file.chmod(0o600)
    return file


def untouched(victim):
    found = victim.stat()
    return victim.read_text() == PRECIOUS and (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)


def test_a_planted_link_with_the_temporary_name_is_not_followed(running, page, victim):
    """All names that a process of the near future would use by its number."""
    number = int(Path("/proc/sys/kernel/ns_last_pid").read_text())
    for name in ("index.html", "status.json"):
        for pid in range(number, number + 3000):
            (page / f".{name}.{pid}").symlink_to(victim)
    written = running.command("status", "--html", page)
    assert (written.returncode, written.stderr) == (0, b"")
    assert untouched(victim)
    for name in ("index.html", "status.json"):
        found = (page / name).lstat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (ATTACKER, 0o644)


@pytest.mark.parametrize("name", ["index.html", "status.json"])
def test_a_link_with_the_final_name_is_replaced(running, page, victim, name):
    (page / name).symlink_to(victim)
    assert running.command("status", "--html", page).returncode == 0
    assert untouched(victim)
    assert not (page / name).is_symlink()


def test_root_writes_as_the_owner_who_may_not_write_elsewhere(running, page):
    """The directory is moved away, and a link to one of root's is there instead."""
    roots = running.directory / "roots"
    roots.mkdir(mode=0o700)
    os.chown(page.parent, ATTACKER, ATTACKER)
    page.rename(page.with_name("elsewhere"))
    page.symlink_to(roots)
    os.lchown(page, ATTACKER, ATTACKER)
    refused = running.command("status", "--html", page)
    assert refused.returncode != 0
    assert os.listdir(roots) == []


def test_a_directory_that_another_than_its_owner_can_put_there_is_refused(running, page):
    theirs = running.directory / "theirs"
    theirs.mkdir()
    os.chown(theirs, VICTIM, VICTIM)
    os.chown(page.parent, ATTACKER, ATTACKER)
    shutil.rmtree(page)
    theirs.rename(page)
    refused = running.command("status", "--html", page)
    assert refused.returncode != 0
    assert f"root does not write to {page}, which others can change" in refused.stderr.decode()
    assert os.listdir(page) == []


def test_usr1_replaces_a_link_in_place_of_the_report(running, victim):
    """Whoever may write into `logs/` cannot have a daemon of root write elsewhere."""
    report = running.settings().status_file
    report.symlink_to(victim)
    running.lonc.send_signal(signal.SIGUSR1)
    eventually(lambda: not report.is_symlink())
    assert untouched(victim)


def test_the_log_of_a_daemon_of_root_follows_no_link_of_another(running, victim):
    log = running.settings().log_file
    log.rename(log.with_name("rotated"))
    log.symlink_to(victim)
    os.lchown(log, ATTACKER, ATTACKER)
    assert running.command("reload").returncode == 0
    assert untouched(victim)
