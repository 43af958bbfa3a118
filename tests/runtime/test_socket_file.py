import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest
from support.machine import as_nobody

from lonc.runtime.socket_file import (
    CannotListen,
    SocketFile,
    require_no_other_file,
    require_writable_directory,
)


def test_a_listener_has_its_mode_and_its_name_from_the_first_moment(tmp_path):
    path = tmp_path / "l1"
    umask = os.umask(0)
    try:
        made = SocketFile(path, 0o640)
        assert os.umask(0) == 0
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["l1"]
    assert made.listening.getblocking() is False
    made.close()


def test_a_dead_daemons_socket_is_replaced_and_anything_else_is_left(tmp_path):
    SocketFile(tmp_path / "l", 0o600).listening.close()
    assert os.listdir(tmp_path) == ["l"]
    SocketFile(tmp_path / "l", 0o600).close()
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("precious")
    with pytest.raises(CannotListen, match="file is in the way, and no socket: remove it"):
        SocketFile(tmp_path / "file", 0o600)
    assert (tmp_path / "file").read_text() == "precious"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".1").mkdir()
    with pytest.raises(CannotListen, match=r"cannot listen at .*/full/l1: Is a directory"):
        SocketFile(tmp_path / "full" / "l1", 0o600)
    with pytest.raises(CannotListen, match=r"cannot listen at .*/none/l1: No such file or directory"):
        SocketFile(tmp_path / "none" / "l1", 0o600)


def test_only_the_socket_that_was_made_here_is_removed(tmp_path):
    path = tmp_path / "l1"
    made = SocketFile(path, 0o600)
    path.unlink()
    path.write_text("another's")
    made.close()
    assert path.read_text() == "another's"
    path.unlink()
    made.remove()  # there is nothing any more, and nothing happens


def test_a_process_that_inherited_the_socket_still_listens_after_close(tmp_path):
    made = SocketFile(tmp_path / "l1", 0o600)
    inherited = made.listening.dup()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "l1"))
        made.close()
        accepted, _ = inherited.accept()
        accepted.close()
    inherited.close()


def test_if_it_cannot_listen_no_descriptor_stays_open(tmp_path):
    before = os.listdir("/proc/self/fd")
    with pytest.raises(CannotListen) as error:
        SocketFile(tmp_path / "none" / "l1", 0o600)
    assert os.listdir("/proc/self/fd") == before
    assert error.value.__cause__ is not None


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_a_directory_that_is_missing_or_not_writable_is_a_sentence():
    def sentence(path, require=require_writable_directory):
        try:
            require(path)
        except CannotListen as error:
            return str(error)
        return ""

    with tempfile.TemporaryDirectory() as public:
        os.chmod(public, 0o755)
        path = Path(public) / "sockets" / "l1"
        assert sentence(path) == f"cannot listen at {path}: there is no {path.parent}"
        path.parent.mkdir()
        assert sentence(path) == ""
        refusal = f"cannot listen at {path}: no permission to write to {path.parent}"
        for mode, expected in ((0o777, ""), (0o775, refusal), (0o776, refusal)):
            path.parent.chmod(mode)
            assert as_nobody(lambda: sentence(path)) == expected
        os.chmod(public, 0o700)
        for require in (require_writable_directory, require_no_other_file):
            denied = f"cannot listen at {path}: Permission denied"
            assert as_nobody(lambda require=require: sentence(path, require)) == denied
