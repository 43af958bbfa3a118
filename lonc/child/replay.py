"""Carries out the delayed transactions of one host, of all its ids, oldest first, one at a time.

Files may be half written, or another child's at the moment (at a reload there are two): a file is taken
only when it was the same at two looks, and locked while it is in flight. One that cannot be read twice
is put aside, as is one that was sealed and does not open; where we have no keys, all wait. Whatever lond
replies, it is done, and its file is removed. Where there was no reply it stays, and all that come after
it wait.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections import deque
from collections.abc import Callable, Collection

from lonc.child.transaction import Transaction
from lonc.configuration import Settings
from lonc.errors import Misconfigured
from lonc.log import logger
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.line_buffer import Line
from lonc.spool.sealing import is_sealed, longest_sealed
from lonc.spool.spool import SENT, Name, move_to_bad, record, unseal, waiting

LOOK_AGAIN = 1.0  # seconds; who writes in place has written by then

# What is wrong with us, and not with the file.
_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOLCK}

Look = tuple[int, int, int]  # inode, size, time of the last change


class Replay(Transaction):
    """`not_for_lond(request)` says what must never be sent; `queue_delayed` takes a transaction that is
    to wait behind all others, `drop` takes it back.

    Callbacks: `on_trouble(why)`; `on_rest()`, whenever nothing is in flight any more.
    """

    def __init__(
        self,
        loop: EventLoop,
        settings: Settings,
        ids: Collection[str],
        not_for_lond: Callable[[bytes], object],
        queue_delayed: Callable[[Transaction], None],
        drop: Callable[[Transaction], None],
        on_trouble: Callable[[str], None],
        on_rest: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._directory = settings.delayed_directory
        self._ids = ids
        self._not_for_lond = not_for_lond
        self._queue_delayed = queue_delayed
        self._drop = drop
        self._on_trouble = on_trouble
        self._on_rest = on_rest
        self._looks: dict[Name, Look] = {}  # at the last look
        self._ready: deque[Name] = deque()  # the same at two looks, and nothing older in their way
        self._done: set[Name] = set()  # carried out, and could not be removed
        self._doubtful: set[Name] = set()  # could not be read, once
        self._by_dns = settings.by_dns
        self._content = b""  # of the file that is on its way
        self._flight: tuple[Name, int] | None = None  # what is on its way, and its descriptor, locked
        self._next_look: object | None = None
        self._leaving = False

    @property
    def waiting(self) -> int:
        """How many files there are, by the last look."""
        return len(self._looks)

    @property
    def oldest(self) -> int | None:
        """When the oldest of them was saved, by its name: UNIX time."""
        return next((name.time for name in self._looks), None)

    @property
    def in_flight(self) -> bool:
        return self._flight is not None

    def look(self) -> None:
        """See what there is, and carry it out; unless that goes on already."""
        if self._flight is None and self._next_look is None and not self._leaving:
            self._look()

    def leave(self) -> None:
        """Begin nothing any more; what lond has already been sent is heard to its end."""
        self._leaving = True
        if self._flight is not None:
            self._drop(self)

    def _look(self) -> None:
        self._next_look = None
        if self._leaving:
            return
        before, self._looks = self._looks, {}
        try:
            names, _ = waiting(self._directory)
            for name in names:
                if name.host in self._ids and (look := self._look_at(name)) is not None:
                    self._looks[name] = look
        except OSError as error:
            self._on_trouble(f"cannot read {self._directory}: {error.strerror}")
            return
        self._done &= set(self._looks)
        self._doubtful &= set(self._looks)
        self._ready = deque()
        for name, look in self._looks.items():
            if before.get(name) != look:
                self._look_in(LOOK_AGAIN)
                break
            self._ready.append(name)
        self._go_on()

    def _look_at(self, name: Name) -> Look | None:
        try:
            found = os.lstat(self._directory / name.text)
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _look_in(self, seconds: float) -> None:
        if self._next_look is None and not self._leaving:
            self._next_look = self._loop.after(seconds, self._look)

    def _go_on(self) -> None:
        """Take the next file, and the next, until one is on its way."""
        while self._flight is None and self._ready and not self._leaving:
            if not self._take(self._ready[0]):
                return
        if self._flight is None:
            self._on_rest()

    def _take(self, name: Name) -> bool:
        """Send it; False if it must wait, and with it all others. What is bad is put aside."""
        path = self._directory / name.text
        if name in self._done:
            self._remove(name)
            return True
        if not os.access(self._directory, os.W_OK | os.X_OK):
            # What cannot be removed would be carried out again and again.
            self._on_trouble(f"delayed transactions wait: cannot write {self._directory}")
            return False
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            self._forget(name)
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
            self._on_trouble(f"delayed transactions wait: {error}")
            return False
        finally:
            if request is None:
                os.close(fd)
        if request is None:
            self._look_in(LOOK_AGAIN)
            return False
        self._flight = name, fd
        self._content = request
        self.request = b"sethost:%b:%b" % (name.host.encode(), request) if self._by_dns else request
        self._queue_delayed(self)
        return True

    def _read(self, fd: int, name: Name) -> bytes | None:
        """The request, once the file is locked; None if another child has it, or if it is no more what
        it was at the last look.

        Raises ValueError if it can never be carried out, Misconfigured if it is sealed and we have no
        keys, OSError.
        """
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        found = os.fstat(fd)
        if self._look_at(name) != self._looks[name] or found.st_ino != self._looks[name][0]:
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
        """Callback: lond has answered, whatever it said."""
        name, fd = self._land()
        try:
            record(self._settings, SENT, name.host, self._content[:-1])
        except OSError as error:
            self._on_trouble(f"cannot write {self._settings.perm_log}: {error.strerror}")
        self._remove(name)
        os.close(fd)  # and unlock it
        if not self._ready:
            self._look_in(LOOK_AGAIN)  # more may have come meanwhile
        self._go_on()

    def fail(self, why: str) -> None:
        """Callback: no reply; it may have been carried out, or not."""
        os.close(self._land()[1])
        self._ready.clear()
        self._on_rest()

    def _land(self) -> tuple[Name, int]:
        flight, self._flight = self._flight, None
        assert flight is not None
        return flight

    def _remove(self, name: Name) -> None:
        try:
            os.unlink(self._directory / name.text)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._done.add(name)
            with contextlib.suppress(OSError):  # the next child, which cannot know, finds nothing to do
                os.truncate(self._directory / name.text, 0)
            self._on_trouble(f"{name} is carried out, and cannot be removed: {error.strerror}")
        else:
            self._done.discard(name)
        self._forget(name)

    def _unreadable(self, name: Name, error: OSError) -> bool:
        if error.errno in _OURS:
            self._on_trouble(f"delayed transactions wait: {error.strerror}")
            return False
        if name not in self._doubtful:
            self._doubtful.add(name)
            self._look_in(LOOK_AGAIN)
            return False
        return self._put_aside(name, f"cannot read it: {error.strerror}")

    def _put_aside(self, name: Name, why: str) -> bool:
        try:
            move_to_bad(self._directory, name.text)
        except OSError as error:
            self._on_trouble(f"{name} is bad ({why}), and cannot be moved: {error.strerror}")
        else:
            logger.error("moved %s to %s/bad: %s", name, self._directory, why)
        self._forget(name)
        return True

    def _forget(self, name: Name) -> None:
        self._looks.pop(name, None)
        if self._ready and self._ready[0] == name:
            self._ready.popleft()
