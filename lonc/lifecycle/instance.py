"""One daemon: the locks and the pid file that make it the only one, and by which commands find it.

    socket directory  pid file        control socket       there is
    ----------------------------------------------------------------------------------
    locked            locked, a pid   lonc listens         a daemon
    locked            locked, empty   lonc listens or not  a daemon that starts
    locked            not locked                           a start, or another configuration's daemon
    not locked        not locked, a pid                    none: the last one was killed
    not locked        not locked, empty                    none

Both locks are held as long as the daemon lives. The lock on the socket directory keeps out another
configuration over the same sockets, and holds even if the pid file is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from lonc.configuration import Settings
from lonc.errors import Busy, CannotStart, NoPermission
from lonc.lifecycle import privileges
from lonc.lifecycle.privileges import Identity
from lonc.spool import spool

DIRECTORY_MODE = 0o750  # the web server is in the group
PID_FILE_MODE = 0o644
LOCK_WITHIN = 1.0  # seconds; commands that look for a daemon lock the pid file for an instant
PAUSE = 0.02  # seconds from one attempt to the next
SETTLE_WITHIN = 60.0  # seconds; a start that takes longer is taken to hang
TITLE = b"lonc: parent"  # of every parent; no other process is ever signalled

WritePid = Callable[[bytes], None]


@contextlib.contextmanager
def hold(settings: Settings) -> Iterator[WritePid]:
    """Hold both locks; yields a function that writes the pid file. The file is empty before and after.

    Makes missing directories. Raises Busy if another daemon holds the lock on the socket directory, and
    CannotStart for all else that is in the way.
    """
    with contextlib.ExitStack() as stack:
        make_directories(settings)
        _make_delayed(settings)
        _lock(stack, settings.socket_directory, os.O_RDONLY | os.O_DIRECTORY, 0, Busy)
        # A process with this lock alone has another socket directory: not Busy.
        pid_file = _lock(stack, settings.pid_file, os.O_RDWR | os.O_CREAT, LOCK_WITHIN, CannotStart)

        def write_pid(content: bytes) -> None:
            try:
                os.ftruncate(pid_file, 0)
                os.pwrite(pid_file, content, 0)
            except OSError as error:
                raise CannotStart(f"cannot write {settings.pid_file}: {error.strerror}") from error

        write_pid(b"\n")  # a full disk is reported now, not when all children are forked
        write_pid(b"")
        stack.callback(write_pid, b"")
        yield write_pid


def directories(settings: Settings) -> list[tuple[Path, str]]:
    """The directories that lonc makes if their parent exists, and the settings that name them."""
    return [(settings.socket_directory, "lonSockDir"), (settings.log_directory, "lonDaemons")]


def make_directories(settings: Settings, owner: Identity | None = None) -> None:
    """Make the directories that are missing, and give them to `owner`. Raises CannotStart."""
    # (The umask sets the mode: by the time of a chmod, another user may have replaced the directory.)
    umask = os.umask(0o777 & ~DIRECTORY_MODE)
    try:
        for directory, setting in directories(settings):
            try:
                directory.mkdir(DIRECTORY_MODE)
                if owner is not None:
                    privileges.hand_over(directory, owner, group=True)
            except FileExistsError:
                pass
            except OSError as error:
                raise CannotStart(f"cannot make {directory} ({setting}): {error.strerror}") from error
    finally:
        os.umask(umask)


def _make_delayed(settings: Settings) -> None:
    try:
        spool.make_directory(settings.delayed_directory)
    except OSError as error:
        why = f"cannot make {settings.delayed_directory} (lonSockDir): {error.strerror}"
        raise CannotStart(why) from error
    spool.make_log(settings)


def _lock(
    stack: contextlib.ExitStack,
    path: Path,
    flags: int,
    within: float,
    busy: type[CannotStart],
) -> int:
    """Open and lock `path` until the stack unwinds.

    Raises `busy` if another process holds the lock for `within` seconds.
    """
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, PID_FILE_MODE)
        stack.callback(os.close, fd)
        deadline = time.monotonic() + within
        while not _try_lock(fd, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise busy(f"{path} is in use by another lonc")
            time.sleep(PAUSE)
    except OSError as error:
        raise CannotStart(f"cannot open {path}: {error.strerror}") from error
    return fd


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
    """The state at this moment. Changes nothing; holds the pid file's lock for an instant at most.

    Raises NoPermission if the pid file cannot be read.
    """
    path = settings.pid_file
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return _find_by_socket(settings)
    except PermissionError as error:
        raise NoPermission(f"cannot open {path}: {error.strerror}") from error
    except OSError as error:
        return Found(State.UNKNOWN, why=f"cannot open {path}: {error.strerror}")
    try:
        if _try_lock(fd, fcntl.LOCK_SH):
            left_behind = os.read(fd, 1)
            found = _find_by_socket(settings)  # a daemon runs, if its pid file was replaced by this one
            dead = left_behind and found.state is State.NOT_RUNNING
            return Found(State.DEAD) if dead else found
        content = os.read(fd, 100).decode(errors="replace").strip()
    except OSError as error:
        return Found(State.UNKNOWN, why=f"cannot read {path}: {error.strerror}")
    finally:
        os.close(fd)
    listening = _listening_pid(settings)  # from the kernel, since the file may have been edited
    if content and listening is not None:
        return Found(State.RUNNING, listening)
    if content.isascii() and content.isdigit() and _is_lonc(pid := int(content)):
        return Found(State.RUNNING, pid)
    why = f"{path} is locked, and there is " + (f"no lonc {content}" if content else "no pid in it")
    return Found(State.STARTING, listening, why)


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
        # A daemon that starts locks the socket directory an instant before the pid file.
        between_locks = found.state is State.UNKNOWN and waited < LOCK_WITHIN
        if found.state is not State.STARTING and not between_locks:
            return found
        time.sleep(PAUSE)


def _listening_pid(settings: Settings) -> int | None:
    """The pid of the lonc that listens at the control socket, from SO_PEERCRED."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(settings.control_file)) != 0:
            return None
        pid: int = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid if _is_lonc(pid) else None


def _find_by_socket(settings: Settings) -> Found:
    """The pid file may be missing although the daemon runs."""
    if (pid := _listening_pid(settings)) is not None:
        return Found(State.RUNNING, pid)
    with contextlib.suppress(OSError):
        fd = os.open(settings.socket_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not _try_lock(fd, fcntl.LOCK_SH):
                why = (
                    f"{settings.socket_directory} is in use, but not by the lonc of {settings.pid_file}"
                )
                return Found(State.UNKNOWN, why=why)
        finally:
            os.close(fd)
    return Found(State.NOT_RUNNING)


def _is_lonc(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(TITLE)
    except OSError:
        return False
