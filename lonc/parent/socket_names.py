"""The files beside a host's socket that LON-CAPA's clients know: its name in another case, and its lock.

- DNS names have no case. A client that spells one otherwise than the table finds a symbolic link to the
  socket.
- In the original `NAME.lock` exists while a socket changes hands, and clients wait until it is gone.
  lonc makes none, and removes those that an ended daemon has left: clients would wait for ever.
"""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

from lonc.errors import CannotStart
from lonc.log import logger
from lonc.runtime.directory import Directory

MAX_SPELLINGS = 16  # of one name: a client must not fill the directory with links
LOCK = ".lock"  # behind the name of a socket


def same_but_for_case(one: str, other: str) -> bool:
    """Whether both are the same DNS name; names with other letters than ASCII are none."""
    return one.isascii() and other.isascii() and one.lower() == other.lower()


class Spellings:
    """The links to the socket `name` in `directory`."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory
        self._name = name
        self._links: set[str] = set()

    def add(self, spelled: str) -> None:
        """Make the link `spelled`, unless it is there; `same_but_for_case` must be true for it.

        Raises CannotStart if anything else is there, or there are MAX_SPELLINGS.
        """
        if len(self._links | {spelled}) > MAX_SPELLINGS:
            raise CannotStart(f"{self._name} has {MAX_SPELLINGS} spellings already")
        try:
            with Directory(self._path) as directory:
                if directory.target(spelled) != self._name:
                    directory.link(spelled, self._name)
        except OSError as error:
            why = f"cannot link {self._path / spelled} to {self._name}: {error.strerror}"
            raise CannotStart(why) from error
        self._links.add(spelled)
        remove_left_lock(self._path / spelled)

    def remove(self) -> None:
        """Remove the links. A name that has become a socket of its own stays."""
        if self._links:
            with contextlib.suppress(OSError), Directory(self._path) as directory:
                for spelled in self._links:
                    if directory.target(spelled) == self._name:
                        directory.unlink(spelled)
        self._links.clear()


def remove_left_links(directory: Path) -> None:
    """Remove the links that a daemon has left that was killed."""
    with contextlib.suppress(OSError), Directory(directory) as opened:
        for name in opened.names():
            target = opened.target(name)
            if target is not None and same_but_for_case(target, name):
                opened.unlink(name)


def remove_left_lock(socket_path: Path) -> None:
    """Remove the lock file of the socket, if there is one; a host may have that name, so no socket."""
    lock = socket_path.with_name(socket_path.name + LOCK)
    try:
        with Directory(lock.parent) as directory:
            found = directory.stat(lock.name)
            if found is None or not stat.S_ISREG(found.st_mode):
                return
            if directory.unlink_if(lock.name, found.st_ino):
                logger.info("%s was left by an ended daemon, and is removed", lock)
    except OSError as error:
        logger.warning("cannot remove %s, for which clients wait: %s", lock, error.strerror)
