"""What an operator does to files of delayed transactions; a lock takes the place of a child."""

import fcntl
import os
import stat
import time
from dataclasses import replace

import pytest
from support.delayed_files import contents, locked, machine_in, saved, write_keys

from lonc.errors import LoncError, Misconfigured, UsageError
from lonc.spool import admin, spool
from lonc.spool.sealing import read_keys, sealed_by
from lonc.spool.spool import Name, unseal

NAME = "1700000000.0.4711.put.l1"
BEFORE = (1_700_000_000, 1_700_000_000)


@pytest.fixture
def settings(tmp_path):
    """With keys `first`, which seals, and `old`."""
    keys = write_keys(tmp_path / "keys", "first", "old")
    settings = replace(machine_in(tmp_path), delayed_key_file=keys)
    spool.make_directory(settings.delayed_directory)
    return settings


@pytest.fixture
def directory(settings):
    return settings.delayed_directory


@pytest.fixture
def keys(settings):
    return read_keys(settings.delayed_key_file)


@pytest.fixture
def file(directory):
    """A function that creates a file with an old mtime."""

    def make(content=b"put:x\n", name=NAME):
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        os.utime(path, BEFORE)
        return path

    return make


@pytest.fixture
def sealed(file, settings, tmp_path):
    """A function that creates a sealed file, under its own name or another."""

    def make(content=b"put:x\n", name=NAME, key="first", place=None):
        keys = read_keys(write_keys(tmp_path / "other", key))
        return file(keys.seal(content, "l1", name), place or name)

    return make


def entry(settings, name=NAME):
    return admin.find(settings, name, False)


def records(settings):
    if not settings.perm_log.exists():
        return []
    lines = settings.perm_log.read_text().splitlines()
    return [line.split(":", 1)[1].rsplit(":", 3)[0] for line in lines]


class TestFinding:
    def test_waiting_files_are_listed_before_bad_ones_and_may_be_left_out(self, settings, file):
        waits, bad = file(), file(name=f"bad/{NAME}")
        assert admin.find(settings, NAME, False).path == waits
        assert admin.find(settings, NAME, True).path == bad
        waits.unlink()
        assert admin.find(settings, NAME, False).path == bad

    def test_a_number_behind_the_name_of_a_bad_file_is_not_part_of_it(self, settings, file):
        for name in ("nonsense", "nonsense.1", NAME, f"{NAME}.12", "1.2.3.x"):
            file(name=f"bad/{name}")
        found = {each.path.name: each.name for each in admin.bad(settings)}
        name = Name.parse(NAME)
        assert found == {
            "nonsense": None, "nonsense.1": None, NAME: name, f"{NAME}.12": name, "1.2.3.x": None,
        }  # fmt: skip

    @pytest.mark.parametrize("text", ["", ".", "..", "bad", f".{NAME}", NAME, "2.0.1.put.l1"])
    def test_a_missing_file_is_an_error(self, settings, file, text):
        file(name=f".{NAME}")
        file(name="bad/nonsense")
        with pytest.raises(UsageError, match="there is no file of that name"):
            admin.find(settings, text, False)

    def test_a_missing_directory_is_empty(self, settings, directory):
        directory.rmdir()
        assert (admin.waiting(settings), admin.bad(settings)) == ([], [])

    def test_an_unreadable_directory_is_an_error_with_a_sentence(self, settings, directory):
        directory.rmdir()
        directory.touch()
        for look in (admin.waiting, admin.bad):
            with pytest.raises(LoncError, match=r"cannot read .*: Not a directory"):
                look(settings)


class TestTelling:
    def test_the_key_of_each_file_is_listed(self, settings, file, sealed):
        file(name="1.0.1.put.l1")
        file(b"", name="2.0.1.put.l1")
        sealed(name="3.0.1.put.l1", key="k" * 32)
        sealed(name="4.0.1.put.l1", key="unknown")
        for number, altered in ((5, slice(3, 4)), (6, slice(20, 21))):
            path = sealed(name=f"{number}.0.1.put.l1")
            content = bytearray(path.read_bytes())
            content[altered] = b"_"
            path.write_bytes(content)
        seals = [admin.sealed_with(each) for each in admin.waiting(settings)]
        assert seals[:5] == [None, None, "k" * 32, "unknown", "damaged"]

    def test_the_request(self, settings, file, sealed):
        file(b"put:plain\n", "1.0.1.put.l1")
        sealed(b"put:sealed\n", "2.0.1.put.l1", key="old")
        sealed(b"put:bad\n", "3.0.1.put.l1", place="bad/3.0.1.put.l1.2")
        assert admin.request(settings, entry(settings, "1.0.1.put.l1")) == b"put:plain"
        assert admin.request(settings, entry(settings, "2.0.1.put.l1")) == b"put:sealed"
        assert admin.request(settings, entry(settings, "3.0.1.put.l1.2")) == b"put:bad"

    def test_a_file_that_cannot_be_unsealed_is_an_error(self, settings, sealed):
        sealed(key="unknown")
        with pytest.raises(ValueError, match="with the key unknown, which is not in"):
            admin.request(settings, entry(settings))
        sealed(place="bad/nonsense")
        with pytest.raises(ValueError, match="was renamed"):
            admin.request(settings, entry(settings, "nonsense"))
        with pytest.raises(Misconfigured, match="loncDelayedKeyFile is not set"):
            admin.request(replace(settings, delayed_key_file=None), entry(settings))

    def test_a_fifo_does_not_block(self, settings, directory):
        os.mkfifo(directory / NAME)
        with pytest.raises(LoncError, match="it is not a regular file"):
            admin.request(settings, entry(settings))


class TestResealing:
    def test_plain_files_and_those_of_older_keys_are_sealed_with_the_first_key(
        self, settings, directory, keys, file, sealed
    ):
        lines = [b"put:one\n", b"\n", b"put:three\n", b"put:four\n"]
        texts = [f"{number}.0.1.put.l1" for number in range(1, 5)]
        file(lines[0], texts[0])
        file(lines[1], texts[1])
        sealed(lines[2], texts[2], key="old")
        sealed(lines[3], texts[3])
        said = [admin.reseal(settings, keys, each) for each in admin.waiting(settings)]
        assert said == ["sealed with first"] * 3 + [None]
        assert sorted(contents(directory)) == texts
        found = saved(settings)
        assert [sealed_by(each) for each in found] == ["first"] * 4
        names = map(Name.parse, texts)
        opens = [unseal(settings, each, name) for each, name in zip(found, names, strict=True)]
        assert opens == lines

    @pytest.mark.parametrize("content", [b"", b"put:half", b"put:one\nput:two\n"])
    def test_a_file_that_is_not_one_whole_line_is_not_resealed(self, settings, keys, file, content):
        path = file(content)
        with pytest.raises(LoncError, match="it is not one whole line"):
            admin.reseal(settings, keys, entry(settings))
        assert path.read_bytes() == content

    def test_a_file_that_cannot_be_unsealed_is_not_resealed(self, settings, keys, sealed):
        path = sealed(key="unknown")
        content = path.read_bytes()
        with pytest.raises(ValueError, match="the key unknown"):
            admin.reseal(settings, keys, entry(settings))
        assert path.read_bytes() == content

    def test_a_file_in_flight_is_not_resealed(self, settings, keys, directory, file):
        path = file()
        with locked(settings, path), pytest.raises(LoncError, match="it is in flight"):
            admin.reseal(settings, keys, entry(settings))
        assert contents(directory) == {NAME: b"put:x\n"}

    def test_a_file_carried_out_meanwhile_is_not_created_again(self, settings, keys, directory, file):
        path = file()
        found = entry(settings)
        path.unlink()
        assert admin.reseal(settings, keys, found) == "already gone"
        assert os.listdir(directory) == []

    @pytest.mark.parametrize("then", ["gone", "replaced"])
    def test_a_file_that_was_open_when_it_was_carried_out_is_not_created_again(
        self, settings, keys, directory, file, monkeypatch, then
    ):
        path = file()
        lock = fcntl.fcntl

        def late(*arguments):
            monkeypatch.setattr(fcntl, "fcntl", lock)
            path.rename(directory / "elsewhere")
            if then == "replaced":
                path.write_bytes(b"put:other\n")
            return lock(*arguments)

        monkeypatch.setattr(fcntl, "fcntl", late)
        if then == "gone":
            assert admin.reseal(settings, keys, entry(settings)) == "already gone"
            assert not path.exists()
        else:
            with pytest.raises(LoncError, match="it was replaced in the meantime"):
                admin.reseal(settings, keys, entry(settings))
            assert path.read_bytes() == b"put:other\n"

    def test_a_writer_may_still_read_back_its_file(
        self, settings, keys, file, restore_afterwards, monkeypatch
    ):
        restore_afterwards(admin)
        admin.READ_BACK_WITHIN = 0.3
        os.utime(file())
        begun = time.time()
        admin.reseal(settings, keys, entry(settings))
        assert time.time() - begun > 0.2
        monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
        admin.reseal(settings, keys, entry(settings))  # there is nothing to do

    def test_a_file_from_the_future_is_not_waited_for(self, settings, keys, file, monkeypatch):
        monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
        later = time.time() + 3600
        os.utime(file(), (later, later))
        assert admin.reseal(settings, keys, entry(settings)) == "sealed with first"

    def test_the_temporary_file_of_another_process_is_kept(self, settings, keys, directory, file):
        file()
        (directory / f".{NAME}").write_bytes(b"its own")
        with pytest.raises(LoncError, match=r"\.put\.l1 exists"):
            admin.reseal(settings, keys, entry(settings))
        assert contents(directory) == {NAME: b"put:x\n", f".{NAME}": b"its own"}

    def test_a_full_disk_changes_no_file(self, settings, keys, directory, file, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        file()
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            admin.reseal(settings, keys, entry(settings))
        assert contents(directory) == {NAME: b"put:x\n"}

    @pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
    def test_owner_and_group_are_kept(self, settings, keys, file):
        path = file()
        os.chown(path, 65534, 65533)
        admin.reseal(settings, keys, entry(settings))
        found = path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (65534, 65533, 0o640)

    def test_the_content_is_synced_before_the_file_is_renamed(self, settings, keys, file, monkeypatch):
        done = []
        fsync, rename = os.fsync, os.rename

        def note(fd):
            done.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
            fsync(fd)

        monkeypatch.setattr(os, "fsync", note)
        monkeypatch.setattr(
            os, "rename", lambda *names, **dirs: done.append("rename") or rename(*names, **dirs)
        )
        file()
        admin.reseal(settings, keys, entry(settings))
        assert done == [f".{NAME}", "rename", "delayed"]


def synced(monkeypatch):
    """The names of what is synced to the disk from now on."""
    names = []
    fsync = os.fsync

    def note(fd):
        names.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note)
    return names


class TestRequeueing:
    def test_the_new_name_is_synced(self, settings, file, monkeypatch):
        file(name=f"bad/{NAME}")
        names = synced(monkeypatch)
        admin.requeue(settings, entry(settings))
        assert names == ["delayed"]

    def test_a_broken_link_is_not_replaced(self, settings, directory, file):
        file(name=f"bad/{NAME}.1")
        (directory / NAME).symlink_to("nowhere")
        with pytest.raises(LoncError, match=" exists"):
            admin.requeue(settings, entry(settings, f"{NAME}.1"))
        assert (directory / NAME).is_symlink()

    def test_a_requeued_file_gets_its_own_name_back(self, settings, directory, file):
        file(b"one\n", f"bad/{NAME}")
        file(b"two\n", "bad/2.0.1.put.l1.3")
        assert admin.requeue(settings, entry(settings, NAME)) == "waits again"
        said = admin.requeue(settings, entry(settings, "2.0.1.put.l1.3"))
        assert said == "waits again, as 2.0.1.put.l1"
        assert contents(directory / "bad") == {}
        assert saved(settings) == [b"two\n", b"one\n"]

    def test_requeueing_replaces_no_file(self, settings, file):
        waits, bad = file(b"one\n"), file(b"two\n", f"bad/{NAME}.1")
        with pytest.raises(LoncError, match=" exists"):
            admin.requeue(settings, entry(settings, f"{NAME}.1"))
        assert (waits.read_bytes(), bad.read_bytes()) == (b"one\n", b"two\n")

    def test_a_file_with_an_impossible_name_is_not_requeued(self, settings, file):
        bad = file(name="bad/nonsense")
        with pytest.raises(LoncError, match="no transaction can have that name"):
            admin.requeue(settings, entry(settings, "nonsense"))
        assert bad.exists()


class TestDropping:
    def test_a_dropped_file_is_removed_and_recorded(self, settings, directory, sealed, file):
        sealed(b"put:secret\n")
        file(b"put:plain\n", "2.0.1.put.l1")
        file(b"nonsense", "bad/nonsense")
        for text in (NAME, "2.0.1.put.l1", "nonsense"):
            assert admin.drop(settings, entry(settings, text)) == "dropped"
        assert contents(directory / "bad") == {}
        assert admin.waiting(settings) == []
        assert records(settings) == ["F:l1:put", "F:l1:put", "F:-:nonsense"]

    def test_without_keys_the_request_is_recorded(self, settings, file):
        settings = replace(settings, delayed_key_file=None)
        file(b"put:msu:x\n")
        admin.drop(settings, entry(settings))
        assert records(settings) == ["F:l1:put:msu:x"]

    @pytest.mark.parametrize("trouble", ["key", "file"])
    def test_if_a_file_cannot_be_unsealed_the_command_of_its_name_is_recorded(
        self, settings, sealed, trouble
    ):
        sealed(key="unknown")
        if trouble == "file":
            settings.delayed_key_file.unlink()
        admin.drop(settings, entry(settings))
        assert records(settings) == ["F:l1:put"]

    def test_a_file_in_flight_is_not_dropped(self, settings, file):
        path = file()
        with locked(settings, path), pytest.raises(LoncError, match="it is in flight"):
            admin.drop(settings, entry(settings))
        assert path.exists()
        assert records(settings) == []

    def test_the_removal_is_synced(self, settings, file, monkeypatch):
        file()
        names = synced(monkeypatch)
        admin.drop(settings, entry(settings))
        assert names == ["delayed"]

    def test_a_lock_on_the_file_itself_which_every_reader_can_hold_is_none(self, settings, file):
        path = file()
        with path.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            admin.drop(settings, entry(settings))
        assert not path.exists()

    def test_a_link_is_not_followed(self, settings, directory, tmp_path):
        secret = tmp_path / "secret"
        secret.write_bytes(b"put:x\n")
        (directory / NAME).symlink_to(secret)
        with pytest.raises(OSError, match="symbolic links"):
            admin.request(settings, entry(settings))

    def test_a_failed_record_is_reported(self, settings, file):
        settings.log_directory.rmdir()
        path = file()
        with pytest.raises(LoncError, match=r"dropped, but cannot write .*perm.log: No such file"):
            admin.drop(settings, entry(settings))
        assert not path.exists()
