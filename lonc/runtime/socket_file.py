"""A listening UNIX socket with a name in a directory; knows nothing of what is said there."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import time
from pathlib import Path

from lonc.runtime.directory import Directory

BACKLOG = 4096  # connections that wait while no child runs; the kernel's own limit may be lower
CHILDREN_END_WITHIN = 1.0  # seconds; the children of a parent that was killed listen that long at most
PAUSE = 0.1  # seconds; each look is a connection
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
            self.listening, self._inode = _listen(path, mode)
        except OSError as error:
            raise CannotListen(f"cannot listen at {path}: {error.strerror or error}") from error

    def in_place(self) -> bool:
        """Whether `path` still is the socket that was made here."""
        try:
            with Directory(self._path.parent) as directory:
                return _inode(directory, self._path.name) == self._inode
        except OSError:
            return False

    def remove(self) -> None:
        """Remove the file if it is the socket that was made here."""
        with contextlib.suppress(OSError), Directory(self._path.parent) as directory:
            if _inode(directory, self._path.name) == self._inode:
                directory.unlink(self._path.name)

    def close(self) -> None:
        """Remove the file and stop listening; a process that inherited the socket still can."""
        self.remove()
        self.listening.close()


def listening_pid(path: Path, patience: float = 0.0) -> int | None:
    """The pid of the process that listens at the socket `path`, by SO_PEERCRED; None if there is none.

    It is 0 if it is unknown, because the backlog is full or the process is in another container. Waits
    at most `patience` seconds for it to end.
    """
    deadline = time.monotonic() + patience
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            refusal = probe.connect_ex(str(path))
            if refusal not in (0, errno.EAGAIN):
                return None
            if time.monotonic() >= deadline:
                return peer_pid(probe)
        time.sleep(PAUSE)


def peer_pid(connection: socket.socket) -> int:
    """The pid of the process that listens at the other end; 0 if it is in another container.

    By the kernel: of the process that called listen(2), also while a connection waits in the backlog.
    """
    pid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid


def remove_left_socket(path: Path) -> None:
    """Remove the socket at `path`, unless a process listens there."""
    with contextlib.suppress(OSError), Directory(path.parent) as directory:
        found = directory.stat(path.name)
        if found is None or not stat.S_ISSOCK(found.st_mode):
            return
        if listening_pid(path, patience=CHILDREN_END_WITHIN) is None:
            directory.unlink_if(path.name, found.st_ino)


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


def _listen(path: Path, mode: int) -> tuple[socket.socket, tuple[int, int] | None]:
    """The socket, and the inode of its name."""
    # No longer than the name itself, so that it fits wherever the name does.
    temporary = "." + (path.name[1:] or "_")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    umask = os.umask(0o777 & ~mode)
    try:
        with Directory(path.parent) as directory, directory.naming(temporary, path.name):
            with contextlib.suppress(FileNotFoundError):
                directory.unlink(temporary)
            listener.bind(directory.path_of(temporary))
            listener.listen(BACKLOG)
            inode = _inode(directory, temporary)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener, inode


def _inode(directory: Directory, name: str) -> tuple[int, int] | None:
    found = directory.stat(name)
    return None if found is None else (found.st_dev, found.st_ino)
