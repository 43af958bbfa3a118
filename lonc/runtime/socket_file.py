"""A listening UNIX socket with a name in a directory; knows nothing of what is said there."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from lonc.runtime.atomic_file import renamed_into_place

BACKLOG = 4096  # connections that wait while no child runs; the kernel's own limit may be lower
RETRY_ACCEPT = 0.1  # seconds from an accept that failed, for want of memory or descriptors, to the next


class CannotListen(Exception):
    """The socket cannot be made; the text is a sentence for a person."""


class SocketFile:
    """A socket that listens at `path`, in `listening`.

    - It has its mode before it has its name, so nobody else can connect in between.
    - A socket that exists at `path` is replaced: the caller holds the lock on the directory, so the
      daemon that made it is dead. Any other file is left.

    Raises CannotListen.
    """

    def __init__(self, path: Path, mode: int) -> None:
        self._path = path
        require_no_other_file(path)
        try:
            self.listening = _listen(path, mode)
        except OSError as error:
            raise CannotListen(f"cannot listen at {path}: {error.strerror or error}") from error
        self._inode = self._inode_at_path()

    def in_place(self) -> bool:
        """Whether `path` still is the socket that was made here."""
        return self._inode_at_path() == self._inode

    def remove(self) -> None:
        """Remove the file if it is the socket that was made here."""
        if self.in_place():
            with contextlib.suppress(OSError):
                self._path.unlink()

    def close(self) -> None:
        """Remove the file and stop listening; a process that inherited the socket still can."""
        self.remove()
        self.listening.close()

    def _inode_at_path(self) -> tuple[int, int] | None:
        try:
            found = self._path.lstat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def require_no_other_file(path: Path) -> None:
    """Raises CannotListen if there is anything but a socket at `path`."""
    try:
        mode = _mode_at(path)
        if mode is not None and not stat.S_ISSOCK(mode):
            raise CannotListen(f"{path} is in the way, and no socket: remove it")
    except OSError as error:
        raise CannotListen(f"cannot listen at {path}: {error.strerror}") from error


def require_writable_directory(path: Path) -> None:
    """Raises CannotListen if the directory of `path` does not exist, or this user cannot write to it."""
    try:
        mode = _mode_at(path.parent)
    except OSError as error:
        raise CannotListen(f"cannot listen at {path}: {error.strerror}") from error
    if mode is None or not stat.S_ISDIR(mode):
        raise CannotListen(f"cannot listen at {path}: there is no {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise CannotListen(f"cannot listen at {path}: no permission to write to {path.parent}")


def _mode_at(path: Path) -> int | None:
    """The type and mode of the file at `path`, or None if there is none.

    Raises OSError if that cannot be known. Path.exists() and is_dir() do not, from Python 3.14 on.
    """
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _listen(path: Path, mode: int) -> socket.socket:
    # No longer than the name itself, whose length sun_path limits.
    temporary = path.with_name("." + (path.name[1:] or "_"))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    umask = os.umask(0o777 & ~mode)
    try:
        with renamed_into_place(temporary, path):
            temporary.unlink(missing_ok=True)
            listener.bind(str(temporary))
            listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener
