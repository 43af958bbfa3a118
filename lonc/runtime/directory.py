"""A directory in which others may write, opened once, and all that is done to the files in it.

A path names another file as soon as somebody renames a directory or makes a link. So nothing is done by
path in such a directory: it is opened, and its files are opened, created, renamed and removed relative
to that descriptor, without following links. What was opened is judged by its descriptor, and removed
only while its name still is that file.

    with Directory(path) as directory:
        directory.replace("status.json", content, 0o644)
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

MAX_LINKS = 40  # on the way to a directory, as in the kernel

# Other users may not write: only the owner makes, renames and removes names.
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Directory:
    """The directory at `path`, open until `close`.

    A symbolic link, of the path itself or of a directory above, is followed only if root or this user
    owns it; by other users than root also if its owner owns the directory that it is in. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = _walk(path)

    def __enter__(self) -> Directory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        _close(self._fd)

    def subdirectory(self, name: str) -> Directory:
        """The directory `name` in this one, which may not be a link. Raises OSError."""
        made = Directory.__new__(Directory)
        made.path = self.path / name
        made._fd = os.open(name, _PATH | os.O_DIRECTORY, dir_fd=self._fd)
        return made

    def path_of(self, name: str) -> str:
        """A path of the file `name` for calls that take no descriptor, as bind(2) and access(2)."""
        return f"/proc/self/fd/{self._fd}/{name}"

    def fstat(self) -> os.stat_result:
        """The status of the directory itself."""
        return os.fstat(self._fd)

    @property
    def is_ours(self) -> bool:
        """Whether only root or this user can make names in it."""
        found = self.fstat()
        return found.st_uid in (0, os.geteuid()) and not found.st_mode & _OTHERS_WRITE

    def may_write(self) -> bool:
        """Whether this process may make and remove names in it."""
        return os.access(self.path_of("."), os.W_OK | os.X_OK)

    def may_remove(self, owner: int) -> bool:
        """Whether this process may remove a file of the user `owner`, also where it is sticky."""
        found = self.fstat()
        sticky = found.st_mode & stat.S_ISVTX
        return self.may_write() and (not sticky or os.geteuid() in (0, owner, found.st_uid))

    # What is in it

    def names(self) -> list[str]:
        """Raises OSError."""
        fd = self._readable()
        try:
            return os.listdir(fd)
        finally:
            _close(fd)

    def portions(self, size: int) -> Iterator[list[str]]:
        """The names, in lists of `size`. Raises OSError."""
        fd = self._readable()
        try:
            with os.scandir(fd) as entries:
                while names := [entry.name for entry in itertools.islice(entries, size)]:
                    yield names
        finally:
            _close(fd)

    def stat(self, name: str) -> os.stat_result | None:
        """The status of `name`, of a link itself; None if there is none. Raises OSError."""
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def holds(self, name: str, fd: int) -> bool:
        """Whether `name` is the file that is open as `fd`. Raises OSError."""
        found = self.stat(name)
        return found is not None and os.path.samestat(found, os.fstat(fd))

    def target(self, name: str) -> str | None:
        """Where the link `name` leads; None if it is no link. Raises OSError for other reasons."""
        try:
            return os.readlink(name, dir_fd=self._fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise
            return None

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Open a file that exists, which may not be a link; neither waits for a FIFO. Raises OSError."""
        return os.open(name, flags | _SAFE, dir_fd=self._fd)

    def open_path(self, name: str) -> int:
        """A descriptor of the name itself, also of a link; nothing is opened. Raises OSError."""
        return os.open(name, _PATH, dir_fd=self._fd)

    def open_to_append(self, name: str, mode: int) -> int:
        """Open `name` for appending; a new file has `mode`, whatever the umask.

        A link is followed only if root or this user owns it. Raises OSError; PermissionError for a file
        with a second name, if others can make names here: it may be any file.
        """
        while True:
            with contextlib.suppress(FileNotFoundError):
                return self._open_existing(name)
            try:
                fd = self.create(name, mode, os.O_WRONLY | os.O_APPEND)
            except FileExistsError:  # another process was first, unless it is a link to nothing
                found = self.stat(name)
                if found is not None and stat.S_ISLNK(found.st_mode):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None
                continue
            with contextlib.suppress(OSError):
                os.fchmod(fd, mode)
            return fd

    def _open_existing(self, name: str) -> int:
        flags = os.O_WRONLY | os.O_APPEND
        try:
            fd = self.open(name, flags)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return os.open(_target(name, self._fd), flags | _SAFE & ~os.O_NOFOLLOW, dir_fd=self._fd)
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1 and not self.is_ours:
            _close(fd)
            raise PermissionError(errno.EPERM, "it has a second name", name)
        return fd

    # Changes

    def create(self, name: str, mode: int, flags: int = os.O_RDWR) -> int:
        """Create a file and open it. Raises FileExistsError, also for a link; OSError."""
        return os.open(name, flags | os.O_CREAT | os.O_EXCL | _SAFE, mode, dir_fd=self._fd)

    def make_subdirectory(self, name: str, mode: int, owner: tuple[int, int] | None = None) -> None:
        """Make the directory `name` with `mode`, whatever the umask, and give it to a user and a group.

        Raises OSError.
        """
        os.mkdir(name, 0o700, dir_fd=self._fd)
        try:
            with self.subdirectory(name) as made:
                # Else another user has put a directory there since.
                if made.fstat().st_uid == os.geteuid() and not made.names():
                    made.set_mode(mode)
                    if owner is not None:
                        os.chown(made.path_of("."), *owner)
            self.sync()
        except OSError:
            with contextlib.suppress(OSError):
                os.rmdir(name, dir_fd=self._fd)
            raise

    def set_mode(self, mode: int) -> None:
        """Raises OSError."""
        fd = self._readable()
        try:
            os.fchmod(fd, mode)
        finally:
            _close(fd)

    def replace(self, name: str, content: bytes, mode: int | None = None) -> None:
        """Write a file that a reader sees only whole; it need not survive a loss of power.

        `mode`: by default what the umask leaves of 0666. Raises OSError; then the old file remains.
        """
        temporary = unguessable(name)
        fd = self.create(temporary, 0o666 if mode is None else mode)
        with self.filling(fd, temporary, name):
            if mode is not None:
                os.fchmod(fd, mode)
            write_all(fd, content)

    @contextlib.contextmanager
    def filling(self, fd: int, temporary: str, name: str) -> Iterator[int]:
        """The block fills `fd`, the new file `temporary`, which then is closed and renamed to `name`.

        To survive a loss of power, the block must fsync `fd`, and `sync` must follow. Raises OSError.
        """
        with self.naming(temporary, name):
            try:
                yield fd
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def naming(self, temporary: str, name: str) -> Iterator[None]:
        """After the block rename `temporary` to `name`; if either fails, remove `temporary`."""
        try:
            yield
            self.rename(temporary, name)
        except BaseException:
            with contextlib.suppress(OSError):
                self.unlink(temporary)
            raise

    def rename(self, name: str, new: str, to: Directory | None = None) -> None:
        """Rename a file, into the directory `to` if given. Raises OSError."""
        os.rename(name, new, src_dir_fd=self._fd, dst_dir_fd=(to or self)._fd)

    def link(self, name: str, target: str) -> None:
        """Make the symbolic link `name`. Raises FileExistsError, OSError."""
        os.symlink(target, name, dir_fd=self._fd)

    def unlink(self, name: str) -> None:
        """Raises OSError."""
        os.unlink(name, dir_fd=self._fd)

    def unlink_if(self, name: str, inode: int) -> bool:
        """Remove `name` if it is the file of that inode; returns whether it was. Raises OSError.

        (Between look and removal its owner may put another file there. It must be one that its owner
        may remove.)
        """
        found = self.stat(name)
        if found is None or found.st_ino != inode:
            return False
        self.unlink(name)
        return True

    def sync(self) -> None:
        """Wait until the names are on the disk. Raises OSError."""
        fd = self._readable()
        try:
            os.fsync(fd)
        finally:
            _close(fd)

    def _readable(self) -> int:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)


_SAFE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def _close(fd: int) -> None:
    """Of a descriptor through which nothing was written: an error loses nothing."""
    with contextlib.suppress(OSError):
        os.close(fd)


def unguessable(name: str) -> str:
    """A temporary name for the file `name`, which nobody can make before."""
    return f".{name}.{os.urandom(8).hex()}"


def replace_file(path: Path, content: bytes, mode: int | None = None) -> None:
    """`Directory.replace`, for one file."""
    with Directory(path.parent) as directory:
        directory.replace(path.name, content, mode)


def write_all(fd: int, content: bytes) -> None:
    """Write all of `content`, in as many calls as that takes. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _walk(path: Path) -> int:
    """Open a directory, one part of its path after the other: see Directory."""
    parts = list(reversed(path.parts))
    fd = os.open(path.anchor or ".", _PATH | os.O_DIRECTORY)  # others than root may not enter "."
    links = 0
    try:
        while parts:
            part = parts.pop()
            next_fd = os.open(part, _PATH, dir_fd=fd)
            found = os.fstat(next_fd)
            if stat.S_ISLNK(found.st_mode):
                _close(next_fd)
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                parts.extend(reversed(Path(_target(part, fd, of_walk=True)).parts))
                continue
            fd, before = next_fd, fd
            _close(before)
            if not stat.S_ISDIR(found.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    except OSError as error:
        _close(fd)
        error.filename = str(path)
        raise
    return fd


def _target(name: str, directory_fd: int, of_walk: bool = False) -> str:
    """The target of a link that may be followed. Raises OSError."""
    fd = os.open(name, _PATH, dir_fd=directory_fd)
    try:
        trusted = [0, os.geteuid()]
        if of_walk and os.geteuid() != 0:
            trusted.append(os.fstat(directory_fd).st_uid)
        if os.fstat(fd).st_uid not in trusted:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        return os.readlink("", dir_fd=fd)
    finally:
        _close(fd)
