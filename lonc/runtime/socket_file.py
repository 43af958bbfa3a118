"""A UNIX socket that listens: there from one moment to the next, and removed by its owner alone."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

BACKLOG = 4096  # while no child runs, connects wait here; the kernel's own limit may be lower


class CannotListen(Exception):
    """There is no place for the socket; the text is a sentence."""


class SocketFile:
    """Listens at `path`, never for a moment with another mode than `mode`.

    The caller holds the lock on the directory, so a socket that lies there already is a dead daemon's.
    Raises CannotListen.
    """

    def __init__(self, path: Path, mode: int) -> None:
        self._path = path
        require_no_other_file(path)
        try:
            self.listening = _listen(path, mode)
        except OSError as error:
            raise CannotListen(f"cannot listen at {path}: {error.strerror or error}") from error
        self._made = self._identity()

    def in_place(self) -> bool:
        """Whether the file is still there, and still the one that was made here."""
        return self._identity() == self._made

    def remove(self) -> None:
        """Remove the file, if it is ours."""
        if self.in_place():
            with contextlib.suppress(OSError):
                self._path.unlink()

    def close(self) -> None:
        """Remove it and stop listening; whoever inherited the socket still can."""
        self.remove()
        self.listening.close()

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.lstat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def require_no_other_file(path: Path) -> None:
    """Raises CannotListen if something is at `path` that is no socket."""
    try:
        if path.exists() and not path.is_socket():
            raise CannotListen(f"{path} is in the way, and no socket: remove it")
    except OSError as error:
        raise CannotListen(f"cannot listen at {path}: {error.strerror}") from error


def require_writable_directory(path: Path) -> None:
    """Raises CannotListen if there is no directory for a socket at `path`, or we may not write there."""
    if not path.parent.is_dir():
        raise CannotListen(f"cannot listen at {path}: there is no {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise CannotListen(f"cannot listen at {path}: we may not write in {path.parent}")


def _listen(path: Path, mode: int) -> socket.socket:
    being_made = path.with_name("." + (path.name[1:] or "_"))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    umask = os.umask(0o777 & ~mode)
    try:
        being_made.unlink(missing_ok=True)
        listener.bind(str(being_made))
        listener.listen(BACKLOG)
        being_made.rename(path)
    except OSError:
        listener.close()
        with contextlib.suppress(OSError):
            being_made.unlink()
        raise
    finally:
        os.umask(umask)
    return listener
