"""Locks of delayed files, on a file that only the daemon's user can open."""

import os
import stat

import pytest
from support.delayed_files import machine_in
from support.machine import in_child

from lonc.errors import Misconfigured
from lonc.spool.locks import SpoolLocks

STRANGER = 54321


@pytest.fixture
def settings(tmp_path):
    return machine_in(tmp_path)


@pytest.fixture
def files(tmp_path):
    """Descriptors of two files."""
    made = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("one", "two")]
    yield made
    for fd in made:
        os.close(fd)


def test_a_file_is_locked_once_until_it_is_released(settings, files):
    one, two = files
    mine, other = SpoolLocks(settings), SpoolLocks(settings)
    assert mine.take(one)
    assert not other.take(one)
    assert other.take(two)
    assert not mine.take(two)
    mine.release(one)
    assert other.take(one)
    other.release(one)
    other.release(two)
    mine.release(two)  # it was not taken, and nothing happens
    assert mine.take(two)
    mine.release(two)


def test_a_process_that_ends_releases_its_locks(settings, files):
    assert in_child(lambda: str(SpoolLocks(settings).take(files[0]))) == "True"
    mine = SpoolLocks(settings)
    assert mine.take(files[0])
    mine.release(files[0])


def test_only_the_daemons_user_can_open_the_file(settings, files):
    mine = SpoolLocks(settings)
    mine.take(files[0])
    mine.release(files[0])
    assert stat.S_IMODE(settings.spool_lock.stat().st_mode) == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes files of other users")
class TestOtherUsers:
    def test_a_file_that_root_makes_belongs_to_the_owner_of_the_directory(self, settings, files):
        os.chown(settings.socket_directory, STRANGER, STRANGER)
        mine = SpoolLocks(settings)
        mine.take(files[0])
        mine.release(files[0])
        assert settings.spool_lock.stat().st_uid == STRANGER

    @pytest.mark.parametrize("kind", ["file", "open file", "link", "directory"])
    def test_what_another_has_put_in_its_place_is_renamed_by_the_daemon(self, settings, files, kind):
        path = settings.spool_lock
        victim = path.with_name("victim")
        victim.touch()
        if kind == "link":
            path.symlink_to(victim)
        elif kind == "directory":
            path.mkdir()
        else:
            path.touch()
            path.chmod(0o666 if kind == "open file" else 0o600)
        os.lchown(path, STRANGER, STRANGER)
        daemon = SpoolLocks(settings, is_daemon=True)
        assert daemon.take(files[0])
        daemon.release(files[0])
        found = path.lstat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, 0)
        assert len(list(path.parent.iterdir())) == 3

    def test_who_may_not_open_it_can_lock_nothing(self, public):
        settings = public.settings()
        settings.socket_directory.mkdir()
        settings.socket_directory.chmod(0o755)
        mine = SpoolLocks(settings)
        with public.configuration.open() as file:
            mine.take(file.fileno())
            mine.release(file.fileno())

        def ask():
            os.setresuid(STRANGER, STRANGER, STRANGER)
            try:
                with public.configuration.open() as file:
                    SpoolLocks(settings).take(file.fileno())
            except Misconfigured as error:
                return str(error)

        assert in_child(ask) == f"{settings.spool_lock}: cannot open it: Permission denied"
