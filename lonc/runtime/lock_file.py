"""A lock that one process holds until it ends: a record lock of fcntl(2) on a file of its own.

The kernel says which process holds it, so no pid in a file need be believed, and a look takes no lock. A
child does not inherit it. A process loses it when it closes any descriptor of the file, so nothing but
`LockFile` opens the file in a process that holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from pathlib import Path

from lonc.runtime.directory import Directory, unguessable

MODE = 0o600  # whoever can open it can hold it
MAX_CONTENT = 100  # bytes
_FLOCK = "hhqqi0q"  # struct flock: type, whence, start, length, pid


class Held(Exception):
    """Another process holds the lock: `pid`, or 0 if that is unknown, as in another container."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.pid = pid


class LockFile:
    """The lock at `path`, held until `close`. The file is created, with mode 0600, and never removed.

    Its content is a short text for those who look. A file of another user is renamed, unless its lock is
    held: that user could hold it at any time. Raises Held, and OSError, also for a file of root if this
    process is not root.
    """

    def __init__(self, path: Path) -> None:
        with Directory(path.parent) as directory:
            self._fd = _open(directory, path.name)
        try:
            os.fchmod(self._fd, MODE)
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = _holder(self._fd)
            os.close(self._fd)
            raise Held(pid or 0) from error
        except OSError:
            os.close(self._fd)
            raise

    def read(self) -> bytes:
        return os.pread(self._fd, MAX_CONTENT, 0)

    def write(self, content: bytes) -> None:
        """Replace the content. Raises OSError."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, content, 0)

    def close(self) -> None:
        os.close(self._fd)


def look_at_lock(path: Path) -> tuple[int | None, bytes]:
    """The pid of the process that holds the lock at `path`, or None; and the content of the file.

    Not for the process that holds it. Raises OSError.
    """
    with Directory(path.parent) as directory:
        fd = directory.open(path.name)
    try:
        return _holder(fd), os.read(fd, MAX_CONTENT)
    finally:
        os.close(fd)


def record_lock(kind: int, start: int = 0, length: int = 0) -> bytes:
    """The argument of fcntl(2) for a lock of `length` bytes from `start` on; 0: to the end."""
    return struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)


def _open(directory: Directory, name: str) -> int:
    """Open or create the file, as this user's. Raises Held, OSError."""
    while True:
        fd = None
        try:
            fd = directory.open(name, os.O_RDWR)
            owner = os.fstat(fd).st_uid
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                return directory.create(name, MODE)
            continue
        except OSError:
            found = directory.stat(name)
            if found is None or found.st_uid in (0, os.geteuid()):
                raise
            owner = found.st_uid
        if fd is not None:
            if owner == os.geteuid():
                return fd
            pid = _holder(fd)
            os.close(fd)
            if pid is not None:
                raise Held(pid)
        directory.rename(name, unguessable(name))


def _holder(fd: int) -> int | None:
    """The pid of the holder, or None; 0 if that is unknown, and no number that kill(2) takes for all."""
    found = fcntl.fcntl(fd, fcntl.F_GETLK, record_lock(fcntl.F_WRLCK))
    kind, _, _, _, pid = struct.unpack(_FLOCK, found)
    return None if kind == fcntl.F_UNLCK else max(0, pid)  # -1: an open file description holds it
