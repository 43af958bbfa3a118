"""One daemon: the locks that make it the only one, and by which commands find it.

    lonDaemons/logs/lonc.lock   lonSockDir/.lonc~lock   there is
    ---------------------------------------------------------------------------
    held, with a pid in it      held                    a daemon
    held, empty                 held                    a daemon that starts
    free                        held                    another configuration's daemon, or a start
    free, with a pid in it      free                    none: the last one was killed
    free, empty                 free                    none

Both locks are held as long as the daemon lives, by its parent process; the kernel says which that is.
The one in the socket directory keeps out another configuration over the same sockets.

`lonc.pid` is for LON-CAPA's programs, as the original's: the pid and a newline while the daemon serves,
else missing. lonc itself believes nothing that is in it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from lonc.configuration import Settings
from lonc.errors import Busy, CannotStart, NoPermission
from lonc.lifecycle.privileges import Identity
from lonc.runtime.directory import Directory, replace_file
from lonc.runtime.lock_file import MAX_CONTENT, Held, LockFile, look_at_lock
from lonc.runtime.socket_file import listening_pid
from lonc.spool import spool

DIRECTORY_MODE = 0o750  # the web server is in the group
PID_FILE_MODE = 0o644
BETWEEN_LOCKS = 1.0  # seconds; a daemon that starts takes one lock an instant before the other
PAUSE = 0.02  # seconds from one attempt to the next
SETTLE_WITHIN = 60.0  # seconds; a start that takes longer is taken to hang


class Instance:
    """The daemon that this process is about to be, or is. It holds both locks."""

    def __init__(self, settings: Settings, lock: LockFile) -> None:
        self._pid_file = settings.pid_file
        self._lock = lock
        try:
            self._remove_pid_file(lock.read())  # of a daemon that was killed
            lock.write(b"\n")  # a full disk is reported now, not when all children are forked
            lock.write(b"")
        except OSError as error:
            raise CannotStart(f"cannot write {settings.lock_file}: {error.strerror}") from error

    def announce(self) -> None:
        """Say that the daemon serves, in the lock and in lonc.pid. Raises CannotStart."""
        pid = b"%d\n" % os.getpid()
        try:
            self._lock.write(pid)
            replace_file(self._pid_file, pid, PID_FILE_MODE)
        except OSError as error:
            raise CannotStart(f"cannot write {self._pid_file}: {error.strerror}") from error

    def close(self) -> None:
        """Take that back, before the locks are released."""
        with contextlib.suppress(OSError):
            self._remove_pid_file(self._lock.read())
            self._lock.write(b"")

    def _remove_pid_file(self, pid: bytes) -> None:
        """Remove lonc.pid if it names `pid`: it may be that of Perl's lonc."""
        with contextlib.suppress(OSError):
            if not pid:
                return
            with Directory(self._pid_file.parent) as directory:
                fd = directory.open(self._pid_file.name)
                try:
                    if os.read(fd, MAX_CONTENT) == pid:
                        directory.unlink_if(self._pid_file.name, os.fstat(fd).st_ino)
                finally:
                    os.close(fd)


def read_pid_file(path: Path) -> bytes:
    """The content of a pid file, which may be anything. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hang us
    try:
        return os.read(fd, MAX_CONTENT)
    finally:
        os.close(fd)


@contextlib.contextmanager
def hold(settings: Settings) -> Iterator[Instance]:
    """Hold both locks.

    Makes missing directories. Raises Busy if another daemon holds the lock of the socket directory, and
    CannotStart for all else that is in the way.
    """
    with contextlib.ExitStack() as stack:
        make_directories(settings)
        _make_delayed(settings)
        _lock(stack, settings.socket_lock, Busy)
        # A process with this lock alone has another socket directory: not Busy.
        instance = Instance(settings, _lock(stack, settings.lock_file, CannotStart))
        stack.callback(instance.close)
        yield instance


def directories(settings: Settings) -> list[tuple[Path, str]]:
    """The directories that lonc makes if their parent exists, and the settings that name them."""
    return [(settings.socket_directory, "lonSockDir"), (settings.log_directory, "lonDaemons")]


def make_directories(settings: Settings, owner: Identity | None = None) -> None:
    """Make the directories that are missing, and give them to `owner`. Raises CannotStart."""
    ids = None if owner is None else (owner.uid, owner.gid)
    for directory, setting in directories(settings):
        try:
            if not os.path.exists(directory):
                with Directory(directory.parent) as above:
                    above.make_subdirectory(directory.name, DIRECTORY_MODE, ids)
        except FileExistsError:
            pass
        except OSError as error:
            raise CannotStart(f"cannot make {directory} ({setting}): {error.strerror}") from error


def _make_delayed(settings: Settings) -> None:
    try:
        spool.make_own_directory(settings.delayed_directory)
    except OSError as error:
        why = f"cannot make {settings.delayed_directory} (lonSockDir): {error.strerror}"
        raise CannotStart(why) from error
    spool.make_log(settings)


def _lock(stack: contextlib.ExitStack, path: Path, busy: type[CannotStart]) -> LockFile:
    """Hold the lock at `path` until the stack unwinds. Raises `busy` if another process holds it."""
    try:
        lock = LockFile(path)
    except Held as held:
        raise busy(f"{path.parent} is in use by another lonc, pid {held.pid}") from held
    except OSError as error:
        raise CannotStart(f"cannot open {path}: {error.strerror}") from error
    stack.callback(lock.close)
    return lock


def held_by_others(settings: Settings) -> Iterator[str]:
    """A sentence for each lock that another process than our daemon holds: no start could get it."""
    with contextlib.suppress(NoPermission):
        daemon = find(settings).pid
        for path in (settings.socket_lock, settings.lock_file):
            with contextlib.suppress(OSError):
                holder, _ = _look(path)
                if holder is not None and holder != daemon:
                    yield f"{path.parent} is in use by another process, pid {holder}"


class State(Enum):
    """Whether there is a daemon."""

    RUNNING = "running"
    STARTING = "starting"
    DEAD = "dead, with pid file"
    NOT_RUNNING = "not running"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class Found:
    """`pid`: the daemon's, if it is known. `why`: why the state is STARTING or UNKNOWN, for a person."""

    state: State
    pid: int | None = None
    why: str = ""


def find(settings: Settings) -> Found:
    """The state at this moment. Changes nothing, and takes no lock.

    Raises NoPermission if a lock cannot be looked at.
    """
    try:
        holder, content = _look(settings.lock_file)
        if holder is None:
            found = _find_by_socket(settings)  # a daemon runs, if the file was replaced
            return Found(State.DEAD) if content and found.state is State.NOT_RUNNING else found
    except PermissionError as error:
        raise NoPermission(f"cannot open {error.filename}: {error.strerror}") from error
    except OSError as error:
        return Found(State.UNKNOWN, why=f"cannot read {error.filename}: {error.strerror}")
    pid = holder or None  # 0: of another container
    if content:
        return Found(
            State.RUNNING, pid, "lonc runs where its pid cannot be seen, as in another container"
        )
    return Found(State.STARTING, pid, f"lonc, pid {holder}, has not finished its start")


def holder_of_lock(settings: Settings) -> int | None:
    """The pid of the process that holds `lonc.lock`; 0 if it is unknown, None if none does.

    Raises OSError.
    """
    return _look(settings.lock_file)[0]


def _look(path: Path) -> tuple[int | None, bytes]:
    """As `look_at_lock`, also where there is no file. Raises OSError with the path as its filename."""
    try:
        return look_at_lock(path)
    except FileNotFoundError:
        return None, b""
    except OSError as error:
        error.filename = str(path)
        raise


def settled(settings: Settings, patience: float = SETTLE_WITHIN) -> Found:
    """What `find` returns once the state is neither STARTING nor about to be; `patience` in seconds.

    If the daemon still starts then, its state is UNKNOWN. Raises NoPermission.
    """
    begun = time.monotonic()
    while True:
        found = find(settings)
        waited = time.monotonic() - begun
        if found.state is State.STARTING and waited >= patience:
            return replace(found, state=State.UNKNOWN)
        between_locks = found.state is State.UNKNOWN and waited < BETWEEN_LOCKS
        if found.state is not State.STARTING and not between_locks:
            return found
        time.sleep(PAUSE)


def _find_by_socket(settings: Settings) -> Found:
    """`lonc.lock` may be missing although the daemon runs."""
    holder, _ = _look(settings.socket_lock)
    if holder is None:
        return Found(State.NOT_RUNNING)
    if holder == listening_pid(settings.control_file):
        return Found(State.RUNNING, holder)
    why = f"pid {holder} uses {settings.socket_directory}, and is not the lonc of {settings.daemons}"
    return Found(State.UNKNOWN, why=why)
