"""Files that get their name when they are complete: a reader sees the old file or the new one, whole.

The one way in which lonc writes files that others read. A file is created beside its place under a
temporary name, filled, closed and renamed; if anything fails, it is removed.

- `replace_file` does all of it, for a content that need not survive a loss of power;
- `create_temporary`, `atomic_file` and `sync_directory` are its steps, for a content that must;
- `renamed_into_place` is for what is created by other means, as a socket by bind(2).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def replace_file(path: Path, content: bytes, mode: int | None = None) -> None:
    """Write `content` to `path`, with that `mode`, or as the umask says. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # two processes may do it at the same time
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o666 if mode is None else mode)
    with atomic_file(fd, temporary, path):
        if mode is not None:
            os.fchmod(fd, mode)
        write_all(fd, content)


def create_temporary(path: Path, mode: int, suffix: str = "") -> tuple[int, Path]:
    """Create `.NAME` beside `path`, where NAME is the last part of `path` with `suffix`.

    Returns its descriptor and path. Raises FileExistsError where it exists: of several writers one gets
    it, and it is as good as a lock until it is renamed or removed; OSError.
    """
    temporary = path.with_name(f".{path.name}{suffix}")
    return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), temporary


@contextlib.contextmanager
def atomic_file(fd: int, temporary: Path, path: Path) -> Iterator[int]:
    """The block fills `fd`, the open file `temporary`, which then is closed and renamed to `path`.

    To survive a loss of power, the block must fsync `fd`, and `sync_directory` must follow.
    """
    with renamed_into_place(temporary, path):
        try:
            yield fd
        finally:
            os.close(fd)


@contextlib.contextmanager
def renamed_into_place(temporary: Path, path: Path) -> Iterator[None]:
    """After the block rename `temporary` to `path`; if either fails, remove `temporary`."""
    try:
        yield
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def write_all(fd: int, content: bytes) -> None:
    """Write all of `content`, in as many calls as that takes. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]


def sync_directory(directory: Path) -> None:
    """Wait until the names in `directory` are on the disk. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
