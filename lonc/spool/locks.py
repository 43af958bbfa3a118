"""Locks of delayed files: one process at a time carries out a file, or changes it.

There are two children of a host at a reload, and an operator may act on a file meanwhile. The lock of
the file with inode N is the byte N of one lock file (fcntl(2), open file description locks), which only
the daemon's user and root can open: a lock on the delayed file itself could be held by its readers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat

from lonc.configuration import Settings
from lonc.errors import Fault, Misconfigured
from lonc.runtime.directory import Directory, unguessable
from lonc.runtime.lock_file import MODE, record_lock

# Errors of this process or machine, not of a file.
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK}

_LARGEST = (1 << 62) - 1  # a start is signed


class SpoolLocks:
    """The locks that this process holds; the lock file is open as long as there are any.

    `is_daemon`: what another user has put in place of the lock file is renamed; else it is an error.
    """

    def __init__(self, settings: Settings, is_daemon: bool = False) -> None:
        self._path = settings.spool_lock
        self._is_daemon = is_daemon
        self._fd: int | None = None
        self._held: dict[int, int] = {}  # by descriptor of the delayed file: the byte

    def take(self, fd: int) -> bool:
        """Lock the file that is open as `fd`; False if another process has.

        Raises Misconfigured if the lock file cannot be opened; OSError for want of resources.
        """
        lock_fd = self._open()
        byte = os.fstat(fd).st_ino & _LARGEST
        try:
            _set(lock_fd, fcntl.F_WRLCK, byte)
        except BlockingIOError:
            return False
        else:
            self._held[fd] = byte
            return True
        finally:
            self._close_unused()

    def release(self, fd: int) -> None:
        """Undo `take`, if it returned True."""
        byte = self._held.pop(fd, None)
        if byte is not None and self._fd is not None:
            _set(self._fd, fcntl.F_UNLCK, byte)
            self._close_unused()

    def _open(self) -> int:
        if self._fd is None:
            try:
                with Directory(self._path.parent) as directory:
                    self._fd = _open(directory, self._path.name, self._is_daemon)
            except OSError as error:
                if error.errno in SHORTAGES:
                    raise
                why = f"cannot open it: {error.strerror}"
                raise Misconfigured([Fault(self._path, None, why)]) from error
        return self._fd

    def _close_unused(self) -> None:
        if self._fd is not None and not self._held:
            os.close(self._fd)
            self._fd = None


def _set(lock_fd: int, kind: int, byte: int) -> None:
    fcntl.fcntl(lock_fd, fcntl.F_OFD_SETLK, record_lock(kind, byte, 1))


def _open(directory: Directory, name: str, is_daemon: bool) -> int:
    """Open or create the lock file. Raises OSError."""
    while True:
        try:
            fd = directory.open(name, os.O_RDWR)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                _create(directory, name)
            continue
        except OSError:
            found = directory.stat(name)
            if found is None or not is_daemon or _may_be_ours(found, directory):
                raise
        else:
            found = os.fstat(fd)
            if _may_be_ours(found, directory) or (os.geteuid() == 0 and not is_daemon):
                return fd
            os.close(fd)
            if not is_daemon:
                raise PermissionError(errno.EPERM, "it is another user's", name)
        directory.rename(name, unguessable(name))


def _create(directory: Directory, name: str) -> None:
    fd = directory.create(name, MODE)
    try:
        if os.geteuid() == 0:
            os.fchown(fd, directory.fstat().st_uid, -1)  # so that the daemon's user can open it
    finally:
        os.close(fd)


def _may_be_ours(found: os.stat_result, directory: Directory) -> bool:
    """Whether nobody but this user, root and the owner of the directory can have opened it."""
    closed = stat.S_ISREG(found.st_mode) and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    return closed and found.st_uid in (0, os.geteuid(), directory.fstat().st_uid)
