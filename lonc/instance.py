"""One daemon on one socket directory: its locks and its pid file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from lonc.cipher import require_idea
from lonc.configuration import Settings
from lonc.errors import CannotStart
from lonc.hosts import Host
from lonc.parent import Parent

DIRECTORY_MODE = 0o750  # the web server must be in the group
PID_FILE_MODE = 0o644


def run(settings: Settings, hosts: Sequence[Host]) -> None:
    """Serve in the foreground until told to stop. Raises CannotStart.

    Two locks last as long as the process. The one on the socket directory itself keeps out another
    configuration over the same sockets, and holds even if somebody removes the pid file. The one on the
    pid file says that the pid in it is alive; locked and empty means that children are still starting.
    """
    require_idea()
    with ExitStack() as stack:
        _make_directory(settings.socket_directory, "lonSockDir")
        _make_directory(settings.log_directory, "lonDaemons")
        sockets = _lock(stack, settings.socket_directory, os.O_RDONLY | os.O_DIRECTORY)
        pid_file = _lock(stack, settings.pid_file, os.O_RDWR | os.O_CREAT)
        write_pid = partial(_write_pid, pid_file, settings.pid_file)
        write_pid(b"\n")  # a full disk is better known now than when all is forked
        write_pid(b"")
        stack.callback(write_pid, b"")
        Parent(
            settings,
            hosts,
            held=(sockets, pid_file),
            on_ready=lambda: write_pid(b"%d\n" % os.getpid()),
        ).run()


def _write_pid(pid_file: int, path: Path, content: bytes) -> None:
    try:
        os.ftruncate(pid_file, 0)
        os.pwrite(pid_file, content, 0)
    except OSError as error:
        raise CannotStart(f"cannot write {path}: {error.strerror}") from error


def _make_directory(directory: Path, setting: str) -> None:
    try:
        directory.mkdir(DIRECTORY_MODE)
        directory.chmod(DIRECTORY_MODE)  # whatever the umask
    except FileExistsError:
        pass
    except OSError as error:
        raise CannotStart(f"cannot make {directory} ({setting}): {error.strerror}") from error


def _lock(stack: ExitStack, path: Path, flags: int) -> int:
    """Open and lock `path` until the stack unwinds."""
    try:
        fd = os.open(path, flags, PID_FILE_MODE)
        stack.callback(os.close, fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CannotStart(f"{path} is in use by another lonc") from None
    except OSError as error:
        raise CannotStart(f"cannot open {path}: {error.strerror}") from error
    return fd
