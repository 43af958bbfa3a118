"""One daemon: the locks and the pid file that make it one, and how others find it.

Two locks last as long as the daemon. The one on the socket directory itself keeps out another
configuration over the same sockets, and holds even if somebody removes the pid file. The one on the pid
file says that the pid in it is alive; locked and empty means that children are still starting.
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

DIRECTORY_MODE = 0o750  # the web server must be in the group
PID_FILE_MODE = 0o644
LOCK_WITHIN = 1.0  # seconds; whoever asks whether we run holds the lock of the pid file for an instant
PAUSE = 0.02  # seconds between two looks
SETTLE_WITHIN = 60.0  # seconds; a start that takes longer hangs, or most of its children do
TITLE = b"lonc: parent"  # of every parent; nobody else is ever signalled

WritePid = Callable[[bytes], None]


@contextlib.contextmanager
def hold(settings: Settings) -> Iterator[WritePid]:
    """Hold both locks; yields what writes the pid file, which is empty at first and at last.

    Raises Busy, and CannotStart.
    """
    with contextlib.ExitStack() as stack:
        make_directories(settings)
        _make_delayed(settings)
        _lock(stack, settings.socket_directory, os.O_RDONLY | os.O_DIRECTORY, 0, Busy)
        # Whoever has this one without the other is over other sockets: not the daemon that is wanted.
        pid_file = _lock(stack, settings.pid_file, os.O_RDWR | os.O_CREAT, LOCK_WITHIN, CannotStart)

        def write_pid(content: bytes) -> None:
            try:
                os.ftruncate(pid_file, 0)
                os.pwrite(pid_file, content, 0)
            except OSError as error:
                raise CannotStart(f"cannot write {settings.pid_file}: {error.strerror}") from error

        write_pid(b"\n")  # a full disk is better known now than when all is forked
        write_pid(b"")
        stack.callback(write_pid, b"")
        yield write_pid


def directories(settings: Settings) -> list[tuple[Path, str]]:
    """Those that lonc makes where their parent exists, and the settings that name them."""
    return [(settings.socket_directory, "lonSockDir"), (settings.log_directory, "lonDaemons")]


def make_directories(settings: Settings, owner: Identity | None = None) -> None:
    """Make what may be missing, for `owner`, if that is somebody else. Raises CannotStart."""
    # (No chmod: by then it could be something else, put there by whoever may write above it.)
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
    """Open and lock `path` until the stack unwinds; raises `busy` if it is not free `within` seconds."""
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
    """`pid` is that of the daemon, where one is known; `why` a sentence for a person, where there is
    something to be said."""

    state: State
    pid: int | None = None
    why: str = ""


def find(settings: Settings) -> Found:
    """Look once. Changes nothing, and holds the pid file's lock for an instant at most.

    Raises NoPermission.
    """
    path = settings.pid_file
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return _find_without_pid_file(settings)
    except PermissionError as error:
        raise NoPermission(f"cannot open {path}: {error.strerror}") from error
    except OSError as error:
        return Found(State.UNKNOWN, why=f"cannot open {path}: {error.strerror}")
    try:
        if _try_lock(fd, fcntl.LOCK_SH):
            left_behind = os.read(fd, 1)
            found = _find_without_pid_file(settings)  # this one may have been put in the place of ours
            dead = left_behind and found.state is State.NOT_RUNNING
            return Found(State.DEAD) if dead else found
        content = os.read(fd, 100).decode(errors="replace").strip()
    except OSError as error:
        return Found(State.UNKNOWN, why=f"cannot read {path}: {error.strerror}")
    finally:
        os.close(fd)
    listening = _listening(settings)  # the kernel's word; anybody may have edited the file
    if content and listening is not None:
        return Found(State.RUNNING, listening)
    if content.isascii() and content.isdigit() and _is_lonc(pid := int(content)):
        return Found(State.RUNNING, pid)
    why = f"{path} is locked, and there is " + (f"no lonc {content}" if content else "no pid in it")
    return Found(State.STARTING, listening, why)


def settled(settings: Settings, patience: float = SETTLE_WITHIN) -> Found:
    """What there is when nothing is starting any more."""
    begun = time.monotonic()
    while True:
        found = find(settings)
        waited = time.monotonic() - begun
        if found.state is State.STARTING and waited >= patience:
            return replace(found, state=State.UNKNOWN)
        # Whoever starts has the one lock an instant before the other.
        in_between = found.state is State.UNKNOWN and waited < LOCK_WITHIN
        if found.state is not State.STARTING and not in_between:
            return found
        time.sleep(PAUSE)


def _listening(settings: Settings) -> int | None:
    """The pid of the lonc that listens at the control socket, by the kernel's word."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(settings.control_file)) != 0:
            return None
        pid: int = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    return pid if _is_lonc(pid) else None


def _find_without_pid_file(settings: Settings) -> Found:
    """Somebody may have taken it away."""
    if (pid := _listening(settings)) is not None:
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
