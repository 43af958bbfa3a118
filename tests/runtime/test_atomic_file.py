import errno
import os
import stat

import pytest

from lonc.runtime.atomic_file import (
    atomic_file,
    create_temporary,
    renamed_into_place,
    replace_file,
    sync_directory,
    write_all,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_and_no_other_is_left(path):
    path.write_text("old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["file"]


def test_the_mode_is_the_one_given_whatever_the_umask_or_else_as_the_umask_says(path):
    umask = os.umask(0o027)
    try:
        replace_file(path, b"", 0o644)
        assert mode(path) == 0o644
        replace_file(path, b"")
        assert mode(path) == 0o640
    finally:
        os.umask(umask)


def test_a_temporary_file_of_a_killed_process_with_our_pid_is_overwritten(path):
    path.with_name(f".file.{os.getpid()}").write_text("much longer than what is written now")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_no_symbolic_link_is_followed(path):
    victim = path.with_name("victim")
    victim.write_text("precious")
    path.with_name(f".file.{os.getpid()}").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        replace_file(path, b"new")
    assert victim.read_text() == "precious"


def test_if_writing_fails_only_the_old_file_is_left(path, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, "full")

    path.write_text("old")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="full"):
        replace_file(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file"]


def test_if_renaming_fails_no_temporary_file_is_left(path):
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(path, b"new")
    assert os.listdir(path.parent) == ["file"]


def test_a_file_has_its_name_only_when_it_is_complete_and_closed(path):
    fd, temporary = create_temporary(path, 0o600)
    assert (temporary.name, mode(temporary)) == (".file", 0o600)
    with atomic_file(fd, temporary, path) as same:
        assert same == fd
        os.write(fd, b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert not temporary.exists()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("failure", [OSError("x"), KeyboardInterrupt("x")])
def test_an_exception_in_the_block_is_raised_and_leaves_no_file(path, failure):
    fd, temporary = create_temporary(path, 0o600)
    with pytest.raises(type(failure), match="x"), atomic_file(fd, temporary, path):
        raise failure
    assert os.listdir(path.parent) == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_of_two_writers_one_gets_the_temporary_file(path):
    fd, temporary = create_temporary(path, 0o600, suffix=".new")
    assert temporary.name == ".file.new"
    with pytest.raises(FileExistsError):
        create_temporary(path, 0o600, suffix=".new")
    os.close(fd)
    temporary.unlink()
    os.close(create_temporary(path, 0o600, suffix=".new")[0])


def test_a_file_created_by_other_means_is_renamed_or_removed(path):
    temporary = path.with_name("temporary")
    with renamed_into_place(temporary, path):
        temporary.touch()
    assert os.listdir(path.parent) == ["file"]
    temporary.touch()
    with pytest.raises(OSError, match="x"), renamed_into_place(temporary, path):
        raise OSError("x")
    assert os.listdir(path.parent) == ["file"]
    with pytest.raises(FileNotFoundError), renamed_into_place(temporary, path):
        pass  # nothing was made, nothing is to be removed


def test_short_writes_are_continued(monkeypatch):
    taken = []
    monkeypatch.setattr(os, "write", lambda _, data: taken.append(bytes(data[:3])) or len(data[:3]))
    write_all(1, b"12345678")
    assert taken == [b"123", b"456", b"78"]


def test_a_directory_is_synced_and_its_descriptor_closed(path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((fd, os.readlink(f"/proc/self/fd/{fd}"))))
    sync_directory(path.parent)
    ((fd, directory),) = synced
    assert directory == str(path.parent)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(FileNotFoundError):
        sync_directory(path)
    path.touch()
    with pytest.raises(NotADirectoryError):
        sync_directory(path)
