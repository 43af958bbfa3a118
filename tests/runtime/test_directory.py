"""Files in a directory where others may write: what they may have put there is never followed."""

import errno
import os
import stat
from pathlib import Path

import pytest
from support.machine import in_child

from lonc.runtime.directory import Directory, replace_file, unguessable, write_all

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root makes files of other users")
STRANGER = 54321


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


@pytest.fixture
def directory(tmp_path):
    with Directory(tmp_path) as opened:
        yield opened


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def as_stranger(function):
    def run():
        os.setgroups([])
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(STRANGER, STRANGER, STRANGER)
        return function()

    return in_child(run)


def link_of(owner, link, target):
    link.symlink_to(target)
    os.lchown(link, owner, owner)


class TestReplacing:
    def test_a_file_is_replaced_and_no_other_is_left(self, path):
        path.write_text("old")
        replace_file(path, b"new")
        assert path.read_bytes() == b"new"
        assert os.listdir(path.parent) == ["file"]

    def test_the_mode_is_the_one_given_whatever_the_umask_or_else_as_the_umask_says(self, path):
        umask = os.umask(0o027)
        try:
            replace_file(path, b"", 0o644)
            assert mode(path) == 0o644
            replace_file(path, b"")
            assert mode(path) == 0o640
        finally:
            os.umask(umask)

    def test_the_temporary_name_cannot_be_guessed(self):
        names = {unguessable("file") for _ in range(100)}
        assert len(names) == 100
        assert all(name.startswith(".file.") and len(name) == len(".file.") + 16 for name in names)

    def test_a_link_is_replaced_and_not_followed(self, path):
        victim = path.with_name("victim")
        victim.write_text("precious")
        victim.chmod(0o600)
        path.symlink_to(victim)
        replace_file(path, b"new", 0o644)
        assert (path.is_symlink(), path.read_bytes()) == (False, b"new")
        assert (victim.read_text(), mode(victim)) == ("precious", 0o600)

    def test_if_writing_fails_only_the_old_file_is_left(self, path, monkeypatch):
        def full(fd, data):
            raise OSError(errno.ENOSPC, "full")

        path.write_text("old")
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="full"):
            replace_file(path, b"new")
        assert path.read_text() == "old"
        assert os.listdir(path.parent) == ["file"]

    def test_if_renaming_fails_no_temporary_file_is_left(self, path):
        path.mkdir()
        with pytest.raises(IsADirectoryError):
            replace_file(path, b"new")
        assert os.listdir(path.parent) == ["file"]

    def test_a_file_has_its_name_only_when_it_is_complete_and_closed(self, path, directory):
        fd = directory.create("temporary", 0o600)
        assert mode(path.with_name("temporary")) == 0o600
        with directory.filling(fd, "temporary", "file") as same:
            assert same == fd
            os.write(fd, b"content")
            assert not path.exists()
        assert path.read_bytes() == b"content"
        assert os.listdir(path.parent) == ["file"]
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    @pytest.mark.parametrize("failure", [OSError("x"), KeyboardInterrupt("x")])
    def test_an_exception_in_the_block_is_raised_and_leaves_no_file(self, path, directory, failure):
        fd = directory.create("temporary", 0o600)
        with pytest.raises(type(failure), match="x"), directory.filling(fd, "temporary", "file"):
            raise failure
        assert os.listdir(path.parent) == []
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    def test_a_file_created_by_other_means_is_renamed_or_removed(self, path, directory):
        temporary = path.with_name("temporary")
        with directory.naming("temporary", "file"):
            temporary.touch()
        assert os.listdir(path.parent) == ["file"]
        temporary.touch()
        with pytest.raises(OSError, match="x"), directory.naming("temporary", "file"):
            raise OSError("x")
        assert os.listdir(path.parent) == ["file"]
        with pytest.raises(FileNotFoundError), directory.naming("temporary", "file"):
            pass  # nothing was made, nothing is to be removed

    def test_short_writes_are_continued(self, monkeypatch):
        taken = []
        monkeypatch.setattr(os, "write", lambda _, data: taken.append(bytes(data[:3])) or len(data[:3]))
        write_all(1, b"12345678")
        assert taken == [b"123", b"456", b"78"]


class TestOpening:
    def test_a_directory_that_was_renamed_since_is_still_the_one_that_is_open(self, tmp_path):
        (tmp_path / "one").mkdir()
        with Directory(tmp_path / "one") as directory:
            (tmp_path / "one").rename(tmp_path / "two")
            (tmp_path / "one").mkdir()
            directory.replace("file", b"x")
        assert os.listdir(tmp_path / "two") == ["file"]
        assert os.listdir(tmp_path / "one") == []

    def test_what_is_no_directory_is_an_error_and_no_descriptor_stays(self, path):
        with pytest.raises(FileNotFoundError, match="file"):
            Directory(path)
        path.touch()
        for missing in (path, path / "below"):
            with pytest.raises(NotADirectoryError, match="file"):
                Directory(missing)

    @needs_root
    @pytest.mark.parametrize(("owner", "follows"), [(0, True), (STRANGER, False)])
    def test_links_of_root_are_followed_and_those_of_others_are_not(self, tmp_path, owner, follows):
        (tmp_path / "real" / "below").mkdir(parents=True)
        link_of(owner, tmp_path / "above", "real")
        link_of(owner, tmp_path / "itself", tmp_path / "real" / "below")
        for linked in (tmp_path / "above" / "below", tmp_path / "itself"):
            if follows:
                with Directory(linked) as directory:
                    assert directory.fstat().st_ino == (tmp_path / "real" / "below").stat().st_ino
            else:
                with pytest.raises(OSError, match="symbolic links"):
                    Directory(linked)

    def test_a_relative_path_and_a_relative_link_work(self, tmp_path, monkeypatch):
        (tmp_path / "one" / "two").mkdir(parents=True)
        (tmp_path / "one" / "up").symlink_to("../one/two")
        monkeypatch.chdir(tmp_path / "one")
        inode = (tmp_path / "one" / "two").stat().st_ino
        for relative in ("two", "up", "../one/up/../two"):
            with Directory(Path(relative)) as directory:
                assert directory.fstat().st_ino == inode

    @needs_root
    def test_a_working_directory_that_may_not_be_entered_does_not_matter(self, public, monkeypatch):
        closed, place = public.directory / "closed", public.directory / "place"
        closed.mkdir(mode=0o700)
        place.mkdir()
        os.chown(place, STRANGER, STRANGER)
        monkeypatch.chdir(closed)

        def write():
            replace_file(place / "file", b"content")
            return "done"

        assert as_stranger(write) == "done"
        assert (place / "file").read_bytes() == b"content"

    def test_a_circle_of_links_ends(self, tmp_path):
        (tmp_path / "one").symlink_to("two")
        (tmp_path / "two").symlink_to("one")
        with pytest.raises(OSError, match="symbolic links"):
            Directory(tmp_path / "one")

    def test_a_subdirectory_may_not_be_a_link(self, tmp_path, directory):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        directory.subdirectory("real").close()
        with pytest.raises(NotADirectoryError):
            directory.subdirectory("link")

    def test_a_file_may_not_be_a_link_and_a_fifo_does_not_block(self, tmp_path, directory):
        (tmp_path / "target").touch()
        (tmp_path / "link").symlink_to("target")
        with pytest.raises(OSError, match="symbolic links"):
            directory.open("link")
        with pytest.raises(FileExistsError):
            directory.create("link", 0o600)
        os.mkfifo(tmp_path / "fifo")
        os.close(directory.open("fifo"))

    @needs_root
    def test_a_directory_that_may_only_be_searched_is_opened(self, public):
        place = public.directory / "searched"
        place.mkdir()
        (place / "file").write_text("x")
        (place / "file").chmod(0o644)
        place.chmod(0o711)

        def read():
            with Directory(place) as directory:
                fd = directory.open("file")
                return os.read(fd, 9).decode()

        assert as_stranger(read) == "x"


class TestAppending:
    @pytest.mark.parametrize("umask", [0o000, 0o777])
    def test_a_new_file_has_its_mode_whatever_the_umask(self, path, directory, umask):
        before = os.umask(umask)
        try:
            os.close(directory.open_to_append("file", 0o640))
        finally:
            os.umask(before)
        assert mode(path) == 0o640

    @needs_root
    def test_no_link_of_another_is_followed(self, path, directory):
        victim = path.with_name("victim")
        victim.touch()
        link_of(STRANGER, path, "victim")
        with pytest.raises(OSError, match="symbolic links"):
            directory.open_to_append("file", 0o640)
        path.unlink()
        path.symlink_to("victim")
        fd = directory.open_to_append("file", 0o640)
        os.write(fd, b"x")
        os.close(fd)
        assert victim.read_bytes() == b"x"

    def test_a_link_to_nothing_is_an_error(self, path, directory):
        path.symlink_to("nowhere")
        with pytest.raises(FileNotFoundError):
            directory.open_to_append("file", 0o640)

    @needs_root
    def test_a_second_name_is_refused_where_others_may_make_it(self, tmp_path, path, directory):
        path.touch()
        path.with_name("second").hardlink_to(path)
        os.close(directory.open_to_append("file", 0o640))
        tmp_path.chmod(0o770)
        with pytest.raises(PermissionError, match="it has a second name"):
            directory.open_to_append("file", 0o640)
        tmp_path.chmod(0o700)
        os.chown(tmp_path, STRANGER, STRANGER)
        with pytest.raises(PermissionError, match="it has a second name"):
            directory.open_to_append("file", 0o640)


class TestRemoving:
    def test_a_file_is_removed_only_while_its_name_is_that_file(self, path, directory):
        path.touch()
        inode = path.stat().st_ino
        path.rename(path.with_name("elsewhere"))
        path.touch()
        assert not directory.unlink_if("file", inode)
        assert path.exists()
        assert directory.unlink_if("file", path.stat().st_ino)
        assert not directory.unlink_if("file", inode)

    @needs_root
    @pytest.mark.parametrize(
        ("owner", "sticky", "of_file", "may"),
        [
            (STRANGER, True, 1, True),
            (0, True, 1, False),
            (0, True, STRANGER, True),
            (0, False, 1, True),
        ],
    )
    def test_in_a_sticky_directory_only_owners_may_remove(self, public, owner, sticky, of_file, may):
        place = public.directory / "spool"
        place.mkdir()
        os.chown(place, owner, STRANGER)
        place.chmod(0o1770 if sticky else 0o770)

        def ask():
            with Directory(place) as directory:
                return str(directory.may_remove(of_file))

        assert as_stranger(ask) == str(may)


class TestSubdirectories:
    @pytest.mark.parametrize("umask", [0o000, 0o777])
    def test_a_new_one_has_its_mode_whatever_the_umask(self, path, directory, umask):
        before = os.umask(umask)
        try:
            directory.make_subdirectory("file", 0o3770)
        finally:
            os.umask(before)
        assert mode(path) == 0o3770
        with pytest.raises(FileExistsError):
            directory.make_subdirectory("file", 0o700)
        assert mode(path) == 0o3770

    @needs_root
    @pytest.mark.parametrize("theirs", ["owner", "content"])
    def test_one_that_another_has_put_in_its_place_keeps_its_mode(
        self, path, directory, theirs, monkeypatch
    ):
        mkdir = os.mkdir

        def replaced(name, mode, dir_fd):
            mkdir(name, 0o755, dir_fd=dir_fd)
            if theirs == "owner":
                os.chown(path, STRANGER, STRANGER)
            else:
                (path / "precious").touch()

        monkeypatch.setattr(os, "mkdir", replaced)
        directory.make_subdirectory("file", 0o770)
        assert mode(path) == 0o755

    def test_names_are_synced_and_the_descriptor_is_closed(self, tmp_path, directory, monkeypatch):
        synced = []
        monkeypatch.setattr(
            os, "fsync", lambda fd: synced.append((fd, os.readlink(f"/proc/self/fd/{fd}")))
        )
        directory.sync()
        ((fd, opened),) = synced
        assert opened == str(tmp_path)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_link_is_made_and_read_and_replaces_nothing(tmp_path):
    (tmp_path / "file").touch()
    with Directory(tmp_path) as directory:
        directory.link("link", "file")
        assert [directory.target(name) for name in ("link", "file", "none")] == ["file", None, None]
        for name in ("link", "file"):
            with pytest.raises(FileExistsError):
                directory.link(name, "other")
        with pytest.raises(OSError, match="File name too long"):
            directory.target("x" * 256)
    assert os.readlink(tmp_path / "link") == "file"
