"""Carries out the delayed transactions of one host, of all its ids: oldest first, one at a time.

The state of a file is kept here, by its name, from look to look:

    at a look                      unchanged since the last      changed, or new
    ------------------------------------------------------------------------------
    (not known)                                                  seen
    seen                           settled                       seen
    settled                        settled                       seen
    unreadable once                unreadable once               seen
    in flight                      in flight                     in flight
    done                           done                          done

    when its turn comes
    ------------------------------------------------------------------------------
    settled, unreadable once       opened, locked and read       in flight
                                   reading has failed            unreadable once; if it was: moved to
                                   bad/ it can never be carried out   moved to bad/
                                   another child has locked it   (as it was; it is tried again)
    in flight                      a reply, whatever it says     removed; if that fails: done
                                   no reply                      settled; all others wait for a look
    done                           removing is tried again

A file that is gone has no state. The oldest file that is merely seen holds up those behind it: its
writer may not have finished. A file is locked while it is in flight, since there are two children at a
reload. If the keys of sealed files cannot be read, or the directory cannot be written, all files wait.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

from lonc.child.transaction import Transaction
from lonc.configuration import Settings
from lonc.errors import Misconfigured
from lonc.log import logger
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.line_buffer import Line
from lonc.spool.sealing import is_sealed, longest_sealed
from lonc.spool.spool import SENT, Name, move_to_bad, record, unseal, waiting

LOOK_AGAIN = 1.0  # seconds; a program that writes a file in place is expected to finish within them

# Errors of this process or machine, not of the file.
_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK}


class FileState(Enum):
    """See the table above."""

    SEEN = "seen"
    SETTLED = "settled"
    IN_FLIGHT = "in flight"
    DONE = "done"
    UNREADABLE_ONCE = "unreadable once"


Fingerprint = tuple[int, int, int]  # inode, size, time of the last change


@dataclass
class _File:
    state: FileState
    fingerprint: Fingerprint  # at the last look

    __slots__ = ("fingerprint", "state")

    def looked_at(self, fingerprint: Fingerprint) -> FileState:
        """The state after another look: the upper half of the table."""
        if self.state in (FileState.IN_FLIGHT, FileState.DONE):
            return self.state
        if fingerprint != self.fingerprint:
            return FileState.SEEN
        return FileState.SETTLED if self.state is FileState.SEEN else self.state


class Replay(Transaction):
    """The delayed transactions of a host; the one in flight is this object.

    `not_for_lond(request)` is true for a request that must never be sent to lond;
    `queue_delayed(transaction)` queues it behind all others, `drop(transaction)` takes it back.

    Callbacks: `on_error(why)`; `on_nothing_in_flight()`, whenever nothing is in flight any more.
    """

    def __init__(
        self,
        loop: EventLoop,
        settings: Settings,
        ids: Collection[str],
        not_for_lond: Callable[[bytes], object],
        queue_delayed: Callable[[Transaction], None],
        drop: Callable[[Transaction], None],
        on_error: Callable[[str], None],
        on_nothing_in_flight: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._directory = settings.delayed_directory
        self._ids = ids
        self._not_for_lond = not_for_lond
        self._queue_delayed = queue_delayed
        self._drop = drop
        self._on_error = on_error
        self._on_nothing_in_flight = on_nothing_in_flight
        self._by_dns = settings.by_dns
        self._files: dict[Name, _File] = {}  # oldest first
        self._turns: deque[Name] = deque()  # of those whose turn comes before the next look
        self._flight: tuple[Name, int] | None = None  # the file in flight, its locked descriptor
        self._content = b""  # of the file in flight
        self._next_look: object | None = None
        self._leaving = False

    @property
    def waiting(self) -> int:
        """Number of files, as of the last look."""
        return len(self._files)

    @property
    def oldest(self) -> int | None:
        """Time at which the oldest file was saved, by its name: UNIX time."""
        return next((name.time for name in self._files), None)

    @property
    def in_flight(self) -> bool:
        return self._flight is not None

    def look(self) -> None:
        """Look into the directory and start to carry out what is there, unless that goes on already."""
        if self._flight is None and self._next_look is None and not self._leaving:
            self._look()

    def leave(self) -> None:
        """Start no more; if a request has already been sent to lond, its reply still counts."""
        self._leaving = True
        if self._flight is not None:
            self._drop(self)

    def _look(self) -> None:
        self._next_look = None
        if self._leaving:
            return
        files: dict[Name, _File] = {}
        try:
            names, _ = waiting(self._directory)
            for name in names:
                if name.host in self._ids and (fingerprint := self._fingerprint(name)) is not None:
                    known = self._files.get(name)
                    state = FileState.SEEN if known is None else known.looked_at(fingerprint)
                    files[name] = _File(state, fingerprint)
        except OSError as error:
            self._on_error(f"cannot read {self._directory}: {error.strerror}")
            return
        self._files = files
        self._turns = deque()
        for name, file in files.items():
            if file.state is FileState.SEEN:
                self._look_in(LOOK_AGAIN)
                break
            if file.state is not FileState.IN_FLIGHT:
                self._turns.append(name)
        self._go_on()

    def _fingerprint(self, name: Name) -> Fingerprint | None:
        """Raises OSError; None if the file is gone."""
        try:
            found = os.lstat(self._directory / name.text)
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _look_in(self, seconds: float) -> None:
        if self._next_look is None and not self._leaving:
            self._next_look = self._loop.after(seconds, self._look)

    def _go_on(self) -> None:
        """Give each file its turn until one is in flight, or one must wait and all others with it."""
        while self._flight is None and self._turns and not self._leaving:
            if not self._take(self._turns.popleft()):
                self._turns.clear()
                return
        if self._flight is None:
            self._on_nothing_in_flight()

    def _take(self, name: Name) -> bool:
        """The turn of one file; False if it must wait, and all others with it."""
        path = self._directory / name.text
        if self._files[name].state is FileState.DONE:
            self._remove(name)
            return True
        if not os.access(self._directory, os.W_OK | os.X_OK):
            # A file that cannot be removed would be carried out again and again.
            self._on_error(f"delayed transactions wait: cannot write {self._directory}")
            return False
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            del self._files[name]
            return True
        except OSError as error:
            return self._unreadable(name, error)
        request = None
        try:
            request = self._read(fd, name)
        except OSError as error:
            return self._unreadable(name, error)
        except ValueError as error:
            return self._put_aside(name, str(error))
        except Misconfigured as error:
            self._on_error(f"delayed transactions wait: {error}")
            return False
        finally:
            if request is None:
                os.close(fd)
        if request is None:
            self._look_in(LOOK_AGAIN)
            return False
        self._files[name].state = FileState.IN_FLIGHT
        self._flight = name, fd
        self._content = request
        self.request = b"sethost:%b:%b" % (name.host.encode(), request) if self._by_dns else request
        self._queue_delayed(self)
        return True

    def _read(self, fd: int, name: Name) -> bytes | None:
        """Lock the file and read its request; None if another child has locked it, or if it is no longer
        the file of the last look.

        Raises ValueError if it can never be carried out, Misconfigured if it is sealed and the keys
        cannot be read, OSError.
        """
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        found = os.fstat(fd)
        fingerprint = self._files[name].fingerprint
        if self._fingerprint(name) != fingerprint or found.st_ino != fingerprint[0]:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no file")
        longest = self._settings.max_request + 1
        too_long = f"it is longer than {self._settings.max_request} bytes"
        if found.st_size > longest_sealed(longest):
            raise ValueError(too_long)
        content = os.read(fd, found.st_size + 1)
        if is_sealed(content):
            content = unseal(self._settings, content, name)
        if len(content) > longest:
            raise ValueError(too_long)
        if not content:
            raise ValueError("it is empty")
        if not content.endswith(b"\n"):
            raise ValueError("it is cut off: it has no newline")
        if content.count(b"\n") > 1:
            raise ValueError("it is more than one line")
        if self._not_for_lond(content):
            raise ValueError("it is not for lond")
        return content

    def complete(self, reply: Line) -> None:
        """Callback: lond has replied. Any reply ends the transaction, even an error."""
        name, fd = self._end_flight()
        try:
            record(self._settings, SENT, name.host, self._content[:-1])
        except OSError as error:
            self._on_error(f"cannot write {self._settings.perm_log}: {error.strerror}")
        self._remove(name)
        os.close(fd)  # and unlock it
        if not self._turns:
            self._look_in(LOOK_AGAIN)  # more may have come meanwhile
        self._go_on()

    def fail(self, why: str) -> None:
        """Callback: no reply. The file stays, although lond may have carried it out."""
        name, fd = self._end_flight()
        os.close(fd)
        if name in self._files:
            self._files[name].state = FileState.SETTLED
        self._turns.clear()
        self._on_nothing_in_flight()

    def _end_flight(self) -> tuple[Name, int]:
        flight, self._flight = self._flight, None
        assert flight is not None
        return flight

    def _remove(self, name: Name) -> None:
        """Remove a file that was carried out; if that fails, remember that it is done."""
        try:
            os.unlink(self._directory / name.text)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._files[name] = _File(FileState.DONE, (0, 0, 0))
            with contextlib.suppress(OSError):  # so that the next child, which forgets, does not send it
                os.truncate(self._directory / name.text, 0)
            self._on_error(f"{name} is carried out, and cannot be removed: {error.strerror}")
            return
        self._files.pop(name, None)

    def _unreadable(self, name: Name, error: OSError) -> bool:
        if error.errno in _OURS:
            self._on_error(f"delayed transactions wait: {error.strerror}")
            return False
        file = self._files[name]
        if file.state is not FileState.UNREADABLE_ONCE:
            file.state = FileState.UNREADABLE_ONCE
            self._look_in(LOOK_AGAIN)
            return False
        return self._put_aside(name, f"cannot read it: {error.strerror}")

    def _put_aside(self, name: Name, why: str) -> bool:
        try:
            move_to_bad(self._directory, name.text)
        except OSError as error:
            self._on_error(f"{name} is rejected ({why}), and cannot be moved: {error.strerror}")
        else:
            logger.error("moved %s to %s/bad: %s", name, self._directory, why)
        del self._files[name]
        return True
