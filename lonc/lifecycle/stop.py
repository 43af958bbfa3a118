"""Stops the daemon from outside: makes it drain, kills it at the timeout, removes what it has left."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from lonc.configuration import LONGEST_DRAIN, Settings
from lonc.errors import CannotStart, LoncError, NoPermission
from lonc.hosts import Host
from lonc.lifecycle.control_client import ask_json
from lonc.lifecycle.instance import PAUSE, State, find, hold, settled
from lonc.lifecycle.privileges import answered_as, identity
from lonc.parent.socket_names import remove_left_links
from lonc.runtime.socket_file import remove_left_socket

KILL_AFTER = 5.0  # seconds beyond the drain timeout


def stop(settings: Settings, hosts: Sequence[Host]) -> str:
    """Make the daemon drain, wait for its end, kill it at the timeout; returns a sentence about that.

    Removes what a killed daemon has left: the sockets of `hosts` and links to them, key files, the pid
    in its file. Raises NoPermission, and LoncError if it is unknown whether a daemon runs.
    """
    found = settled(settings)
    if found.state is State.DEAD:
        _clear_up(settings, hosts)
    if found.state in (State.NOT_RUNNING, State.DEAD):
        return "lonc is not running"
    if found.pid is None:
        raise LoncError(found.why)
    try:
        with _daemon(settings, found.pid) as daemon:
            if find(settings).pid != found.pid:  # the pid may be another process's by now
                return "lonc is stopped"
            drained_within = _request_stop(settings, daemon)
            if daemon.ends_within(drained_within + KILL_AFTER):
                return "lonc is stopped"
            daemon.signal(signal.SIGKILL)
            daemon.ends_within(KILL_AFTER)
    except PermissionError as error:
        raise NoPermission(f"cannot end process {found.pid}: {error.strerror}") from error
    except ProcessLookupError:
        return "lonc is stopped"
    _clear_up(settings, hosts)
    return "lonc did not end in time, and was killed"


class _Daemon(Protocol):
    """The process of the daemon."""

    def signal(self, signum: int) -> None:
        """Raises ProcessLookupError if it has ended, and PermissionError."""

    def ends_within(self, seconds: float) -> bool: ...


class _ByDescriptor:
    """Known by a pidfd, so that another process that gets the pid is not meant."""

    def __init__(self, pidfd: int) -> None:
        self._pidfd = pidfd

    def signal(self, signum: int) -> None:
        signal.pidfd_send_signal(self._pidfd, signum)

    def ends_within(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


class _ByLock:
    """Known by the lock that it holds, where there is no pidfd, as in older containers."""

    def __init__(self, settings: Settings, pid: int) -> None:
        if pid <= 1:
            raise ValueError(f"{pid} is no daemon")
        self._settings = settings
        self._pid = pid

    def signal(self, signum: int) -> None:
        if self._ended():
            raise ProcessLookupError
        os.kill(self._pid, signum)

    def ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not self._ended():
            if time.monotonic() >= deadline:
                return False
            time.sleep(PAUSE)
        return True

    def _ended(self) -> bool:
        return find(self._settings).pid != self._pid


@contextlib.contextmanager
def _daemon(settings: Settings, pid: int) -> Iterator[_Daemon]:
    """Raises ProcessLookupError if it has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except AttributeError:  # Python was built without it
        pidfd = None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS):
            raise
        pidfd = None
    if pidfd is None:
        yield _ByLock(settings, pid)
        return
    try:
        yield _ByDescriptor(pidfd)
    finally:
        os.close(pidfd)


def _request_stop(settings: Settings, daemon: _Daemon) -> float:
    """Order it to stop, or signal it if it does not answer; returns the seconds that it may drain.

    (The order may be repeated. A second TERM would end the draining.)
    """
    try:
        answer = ask_json(settings, "stop")
    except LoncError:
        answer = None
    match answer:
        # By the setting in force, which may be another than that of the file, but is in its range.
        case {"drained_within": int(seconds) | float(seconds)} if 0 <= seconds <= LONGEST_DRAIN:
            return seconds
    daemon.signal(signal.SIGTERM)
    return settings.drain_timeout


def _clear_up(settings: Settings, hosts: Sequence[Host]) -> None:
    """Remove what a daemon that was killed has left, as the daemon's user and under its locks."""
    # Here, since other commands need no cipher, and before the user that may not be able to read Python.
    from lonc.wire.key_exchange import remove_key_files

    with contextlib.suppress(CannotStart):
        remove = partial(_remove_files, settings, hosts, remove_key_files)
        answered_as(identity(settings), remove)


def _remove_files(
    settings: Settings, hosts: Sequence[Host], remove_key_files: Callable[[Path], None]
) -> list[str]:
    """Run as the daemon's user. Returns no sentences, as `answered_as` wants them."""
    with contextlib.suppress(CannotStart, OSError), hold(settings):
        paths = [settings.control_file, *(settings.socket_directory / host.name for host in hosts)]
        if settings.create_socket is not None:
            paths.append(settings.create_socket)
        for path in paths:
            remove_left_socket(path)
        remove_left_links(settings.socket_directory)
        remove_key_files(settings.socket_directory)
    return []
