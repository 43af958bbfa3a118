"""Files that appear whole or not at all, and then survive."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def appearing(fd: int, own: Path, path: Path) -> Iterator[int]:
    """`fd` is that of `own`, to be filled here; then it is closed, and the file gets the name `path`.

    If that fails, whatever it was, the file is removed. Whose name is to last calls `sync` after that.
    """
    try:
        try:
            yield fd
        finally:
            os.close(fd)
        os.rename(own, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(own)
        raise


def sync_directory(directory: Path) -> None:
    """Its names are on the disk. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
