"""Carries out the delayed transactions of one host, of all its ids: oldest first.

Those of one user are carried out one at a time, those of different users side by side on all connections
but one, as far as no client wants them (`work_queue`). With fewer a backlog may never end: while a user
has a file, its further critical requests are saved behind it, perhaps faster than they are carried out.
A request whose user cannot be told waits for all older ones, and all others wait for it
(`lonc.spool.order`).

The state of a file is kept here, by its name, from look to look:

    at a look                      unchanged since the last      changed, or new
    ------------------------------------------------------------------------------
    (not known)                                                  seen; whole if it is ours
    seen                           settled, after LOOK_AGAIN     seen
    whole, settled                 settled                       seen
    unreadable once                unreadable once               seen
    in flight                      in flight                     in flight
    done                           done                          done

    when its turn comes
    ------------------------------------------------------------------------------
    whole, settled,                opened, locked and read       in flight
    unreadable once                its user is in flight         as it was; next after that one
                                   reading has failed            unreadable once; then: moved to bad/
                                   it can never be carried out   moved to bad/; if it was whole: seen
                                   another child has locked it   as it was; it is tried again
    in flight                      a reply, whatever it says     removed; if that fails: done
                                   no reply                      settled; all others wait for a look
    done                           removing is tried again

Of many files only the oldest are looked at, and the directory is read in slices, between which other
events are handled: a host that was away for long holds up no request. A file that is gone has no state.
The oldest file that is merely seen holds up those behind it: its
writer may not have finished. Our own writer renames a whole file into place and marks it (`is_ours`), so
no second look is needed. A file is locked while it is in flight, since there are two children at a
reload. If the keys of sealed files cannot be read, or the directory cannot be written, all files wait.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import Enum

from lonc.child.transaction import Transaction
from lonc.configuration import Settings
from lonc.errors import Misconfigured
from lonc.log import logger
from lonc.runtime.directory import Directory
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.line_buffer import Line
from lonc.runtime.slices import Slices
from lonc.spool.locks import SHORTAGES, SpoolLocks
from lonc.spool.order import user_of
from lonc.spool.scan import Oldest, Unchanged, oldest
from lonc.spool.sealing import is_sealed, longest_sealed
from lonc.spool.spool import SENT, Name, is_ours, move_to_bad, record, unseal

LOOK_AGAIN = 1.0  # seconds; a program that writes a file in place is expected to finish within them
MOST_KNOWN = 2000  # files that are looked at: the oldest; the others wait until these are carried out
LOOK_COST = 3.0  # microseconds
MOST_TAKEN = 20  # files in a turn of the loop; to reject one takes some 150 microseconds
MOST_BEHIND = 1000  # files that have been read, and wait for one of the same user


class FileState(Enum):
    """See the table above."""

    SEEN = "seen"
    WHOLE = "whole"
    SETTLED = "settled"
    IN_FLIGHT = "in flight"
    DONE = "done"
    UNREADABLE_ONCE = "unreadable once"


Fingerprint = tuple[int, int, int]  # inode, size, time of the last change


@dataclass(slots=True)
class _File:
    state: FileState
    fingerprint: Fingerprint  # at the last look
    since: float = 0.0  # time of the first look, by the loop's clock

    def looked_at(self, fingerprint: Fingerprint) -> FileState:
        """The state after another look: the upper half of the table."""
        if self.state in (FileState.IN_FLIGHT, FileState.DONE):
            return self.state
        if fingerprint != self.fingerprint:
            return FileState.SEEN
        if self.state in (FileState.SEEN, FileState.WHOLE):
            return FileState.SETTLED
        return self.state


class _Flight(Transaction):
    """The transaction of one file. `fd` is locked; `user` is None if it cannot be told."""

    __slots__ = ("_replay", "content", "fd", "name", "user")

    def __init__(self, replay: Replay, name: Name, fd: int, content: bytes, user: bytes | None) -> None:
        self._replay = replay
        self.name = name
        self.fd = fd
        self.content = content
        self.user = user

    def complete(self, reply: Line) -> None:
        self._replay.complete(self)

    def fail(self, why: str) -> None:
        self._replay.fail(self)


class Replay:
    """The delayed transactions of a host.

    `not_for_lond(request)` is true for a request that must never be sent to lond;
    `queue_delayed(transaction, since)` queues it behind all others, `since` is the time from which its
    file has waited; `drop(transaction)` takes it back.

    Callbacks: `on_error(why)`; `on_nothing_in_flight()`, whenever nothing is in flight any more.
    """

    def __init__(
        self,
        loop: EventLoop,
        settings: Settings,
        ids: Collection[str],
        not_for_lond: Callable[[bytes], object],
        queue_delayed: Callable[[Transaction, float], None],
        drop: Callable[[Transaction], None],
        on_error: Callable[[str], None],
        on_nothing_in_flight: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._directory = settings.delayed_directory
        self._locks = SpoolLocks(settings, is_daemon=True)
        self._ids = ids
        self._not_for_lond = not_for_lond
        self._queue_delayed = queue_delayed
        self._drop = drop
        self._on_error = on_error
        self._on_nothing_in_flight = on_nothing_in_flight
        self._by_dns = settings.by_dns
        self._files: dict[Name, _File] = {}  # oldest first
        self._more = 0  # files behind those, as of the last look
        self._unchanged = Unchanged(self._directory)
        self._slices = Slices(loop, self._go_on)
        self._continues = False  # files get their turns in the next turn of the loop
        self._turns: deque[Name] = deque()  # of those whose turn comes before the next look
        self._behind: dict[bytes, deque[Name]] = {}  # by user; older than `_turns`, behind one in flight
        self._flights: dict[Name, _Flight] = {}
        self._most_flights = max(1, settings.max_connections - 1)
        self._next_look: object | None = None
        self._failed = False  # a transaction has failed since the last look
        self._leaving = False

    @property
    def waiting(self) -> int:
        """Number of files, as of the last look."""
        return len(self._files) + self._more

    @property
    def oldest(self) -> int | None:
        """Time at which the oldest file was saved, by its name: UNIX time."""
        return next((name.time for name in self._files), None)

    @property
    def in_flight(self) -> bool:
        return bool(self._flights)

    def look(self) -> None:
        """Look into the directory and start to carry out what is there, unless that goes on already."""
        if not self._flights and self._next_look is None and not self._leaving:
            self._look()

    def look_soon(self) -> None:
        """Look in LOOK_AGAIN seconds: a program that was replied con_lost saves its request now."""
        if not self._flights:
            self._look_in(LOOK_AGAIN)

    def leave(self) -> None:
        """Start no more; if a request has already been sent to lond, its reply still counts."""
        self._leaving = True
        self._slices.cancel()
        for flight in list(self._flights.values()):
            self._drop(flight)

    def _look(self) -> None:
        self._next_look = None
        if not self._leaving:
            self._failed = False
            self._scan()
            self._go_on()

    def _scan(self, settle: bool = True) -> None:
        """Scan the directory, unless that is under way. Without `settle` no file becomes settled: the
        last look is too recent."""
        if not self._slices.under_way:
            self._slices.begin(self._scan_steps(settle))

    def _scan_steps(self, settle: bool) -> Iterator[float]:
        try:
            found = Oldest(list(self._files), self._more)
            if not self._unchanged:
                self._unchanged.scan_begins()
                found = yield from oldest(self._directory, self._ids, MOST_KNOWN)
            fingerprints: dict[Name, Fingerprint] = {}
            if found.names:
                with Directory(self._directory) as directory:
                    for name in found.names:
                        yield LOOK_COST
                        if (fingerprint := _fingerprint(directory, name)) is not None:
                            fingerprints[name] = fingerprint
        except OSError as error:
            self._unchanged.scan_failed()
            self._on_error(f"cannot read {self._directory}: {error.strerror}")
            return
        files = {name: self._looked_at(name, each, settle) for name, each in fingerprints.items()}
        # Files in flight are known, also where older ones have appeared since.
        files |= {name: self._files[name] for name in self._flights.keys() & self._files.keys()}
        self._files, self._more = files, found.more
        self._all_wait()
        for name, file in files.items():
            if file.state is FileState.SEEN:
                self._look_in(LOOK_AGAIN)
                break
            if file.state is not FileState.IN_FLIGHT:
                self._turns.append(name)

    def _looked_at(self, name: Name, fingerprint: Fingerprint, settle: bool) -> _File:
        known = self._files.get(name)
        if known is None:
            state = FileState.WHOLE if is_ours(name, fingerprint[2]) else FileState.SEEN
            return _File(state, fingerprint, self._loop.now)
        state = known.looked_at(fingerprint)
        if known.state is FileState.SEEN and state is FileState.SETTLED and not settle:
            state = FileState.SEEN
        return _File(state, fingerprint, known.since)

    def _look_in(self, seconds: float) -> None:
        if self._next_look is None and not self._leaving:
            self._next_look = self._loop.after(seconds, self._look)

    def _go_on(self) -> None:
        """Give files their turns until enough are in flight, or one must wait and all others with it.

        After MOST_TAKEN of them, other events are handled before the next.
        """
        taken = 0
        while len(self._flights) < self._most_flights and not self._leaving:
            if taken == MOST_TAKEN:
                if not self._continues:
                    self._continues = True
                    self._loop.after(0, self._continue)
                return
            name = self._next()
            if name is None or not self._take(name):
                break
            taken += 1
        if not self._flights:
            self._on_nothing_in_flight()

    def _continue(self) -> None:
        self._continues = False
        self._go_on()

    def _next(self) -> Name | None:
        """The file whose turn is next; None if there is none, or all wait for the one in flight."""
        users = {flight.user for flight in self._flights.values()}
        if None in users:
            return None
        for user, names in self._behind.items():
            if user not in users:
                name = names.popleft()
                if not names:
                    del self._behind[user]
                return name
        return self._turns.popleft() if self._turns else None

    def _all_wait(self) -> None:
        """No file gets a turn before the next look."""
        self._turns.clear()
        self._behind.clear()

    def _take(self, name: Name) -> bool:
        """The turn of one file; False if it must wait, and all others with it."""
        file = self._files[name]
        if file.state is FileState.DONE:
            self._remove(name, file.fingerprint[0])
            return True
        try:
            with Directory(self._directory) as directory:
                if not directory.may_write():
                    # A file that cannot be removed would be carried out again and again.
                    return self._all_must_wait(f"cannot write {self._directory}")
                return self._open(directory, name)
        except FileNotFoundError:
            del self._files[name]
            return True
        except OSError as error:
            return self._unreadable(name, error)

    def _open(self, directory: Directory, name: Name) -> bool:
        """As `_take`. Raises OSError."""
        fd = directory.open(name.text)
        content = None
        try:
            if not directory.may_remove(os.fstat(fd).st_uid):
                return self._all_must_wait(f"cannot remove files of other users in {self._directory}")
            content = self._read(directory, fd, name)
        except ValueError as error:
            return self._reject(name, str(error))
        except Misconfigured as error:
            return self._all_must_wait(str(error))
        finally:
            if content is None:
                self._close(fd)
        if content is None:
            self._look_in(LOOK_AGAIN)
            self._all_wait()
            return False
        return self._start(name, fd, content)

    def _all_must_wait(self, why: str) -> bool:
        self._on_error(f"delayed transactions wait: {why}")
        self._all_wait()
        return False

    def _close(self, fd: int) -> None:
        """Close a file, and unlock it if it was locked."""
        self._locks.release(fd)
        os.close(fd)

    def _start(self, name: Name, fd: int, content: bytes) -> bool:
        """Queue the transaction, unless it must wait for one in flight; False if all others must."""
        user = user_of(content)
        if user is None and self._flights:
            self._close(fd)
            self._turns.appendleft(name)
            return False
        if user is not None and any(flight.user == user for flight in self._flights.values()):
            self._close(fd)
            if sum(map(len, self._behind.values())) >= MOST_BEHIND:
                self._turns.appendleft(name)
                return False
            self._behind.setdefault(user, deque()).append(name)
            return True
        flight = _Flight(self, name, fd, content, user)
        flight.request = b"sethost:%b:%b" % (name.host.encode(), content) if self._by_dns else content
        file = self._files[name]
        file.state = FileState.IN_FLIGHT
        self._flights[name] = flight
        self._queue_delayed(flight, file.since)
        return True

    def _read(self, directory: Directory, fd: int, name: Name) -> bytes | None:
        """Lock the file and read its request; None if another child has locked it, or if it is no longer
        the file of the last look.

        Raises ValueError if it can never be carried out, Misconfigured if it is sealed and the keys
        cannot be read, OSError.
        """
        if not self._locks.take(fd):
            return None
        found = os.fstat(fd)
        fingerprint = self._files[name].fingerprint
        if _fingerprint(directory, name) != fingerprint or found.st_ino != fingerprint[0]:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no file")
        if found.st_nlink > 1:
            raise ValueError("it has a second name")
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

    def complete(self, flight: _Flight) -> None:
        """Callback: lond has replied. Any reply ends the transaction, even an error."""
        name = flight.name
        del self._flights[name]
        try:
            record(self._settings, SENT, name.host, flight.content[:-1])
        except OSError as error:
            self._on_error(f"cannot write {self._settings.perm_log}: {error.strerror}")
        self._remove(name, os.fstat(flight.fd).st_ino, flight.fd)
        self._close(flight.fd)
        if not self._turns and not self._behind:
            # While it was in flight, requests of its user were saved. They must not wait for a second:
            # meanwhile others would be saved behind them, and so on without end.
            if not self._failed and not self._leaving:
                self._scan(settle=False)
            self._look_in(LOOK_AGAIN)  # another may be saved just now
        self._go_on()

    def fail(self, flight: _Flight) -> None:
        """Callback: no reply. The file stays, although lond may have carried it out."""
        del self._flights[flight.name]
        self._close(flight.fd)
        if flight.name in self._files:
            self._files[flight.name].state = FileState.SETTLED
        self._failed = True
        self._all_wait()
        if not self._flights:
            self._on_nothing_in_flight()

    def _remove(self, name: Name, inode: int, fd: int | None = None) -> None:
        """Remove the file that was carried out; if that fails, remember that it is done."""
        try:
            with Directory(self._directory) as directory:
                directory.unlink_if(name.text, inode)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._files[name] = _File(FileState.DONE, (inode, 0, 0))
            if fd is not None:
                with contextlib.suppress(
                    OSError
                ):  # so that the next child, which forgets, does not send it
                    os.truncate(f"/proc/self/fd/{fd}", 0)
            self._on_error(f"{name} is carried out, and cannot be removed: {error.strerror}")
            return
        self._files.pop(name, None)

    def _unreadable(self, name: Name, error: OSError) -> bool:
        if error.errno in SHORTAGES:
            return self._all_must_wait(f"{error.strerror}")
        file = self._files[name]
        if file.state is not FileState.UNREADABLE_ONCE:
            file.state = FileState.UNREADABLE_ONCE
            self._look_in(LOOK_AGAIN)
            self._all_wait()
            return False
        return self._put_aside(name, f"cannot read it: {error.strerror}")

    def _reject(self, name: Name, why: str) -> bool:
        """It can never be carried out; but a file that was seen once may not have been finished."""
        file = self._files[name]
        if file.state is FileState.WHOLE:
            file.state = FileState.SEEN
            self._look_in(LOOK_AGAIN)
            self._all_wait()
            return False
        return self._put_aside(name, why)

    def _put_aside(self, name: Name, why: str) -> bool:
        try:
            move_to_bad(self._directory, name.text, self._files[name].fingerprint[0])
        except OSError as error:
            self._on_error(f"{name} is rejected ({why}), and cannot be moved: {error.strerror}")
        else:
            logger.error("moved %s to %s/bad: %s", name, self._directory, why)
        del self._files[name]
        return True


def _fingerprint(directory: Directory, name: Name) -> Fingerprint | None:
    """Raises OSError; None if the file is gone."""
    found = directory.stat(name.text)
    return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)
