"""Stops the daemon from outside: makes it drain, kills it at the timeout, removes what it has left."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lonc.configuration import Settings
from lonc.errors import CannotStart, LoncError, NoPermission
from lonc.hosts import Host
from lonc.lifecycle.control_client import ask
from lonc.lifecycle.instance import State, find, hold, settled
from lonc.lifecycle.privileges import answered_as, identity
from lonc.parent.socket_names import remove_left_links
from lonc.runtime.socket_file import CHILDREN_END_WITHIN, listening_pid

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
        pidfd = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return "lonc is stopped"
    try:
        if find(settings).pid != found.pid:  # the pid may be another process's by now
            return "lonc is stopped"
        drained_within = _request_stop(settings, pidfd)
        if _ends_within(pidfd, drained_within + KILL_AFTER):
            return "lonc is stopped"
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _ends_within(pidfd, KILL_AFTER)
    except PermissionError as error:
        raise NoPermission(f"cannot end process {found.pid}: {error.strerror}") from error
    except ProcessLookupError:
        return "lonc is stopped"
    finally:
        os.close(pidfd)
    _clear_up(settings, hosts)
    return "lonc did not end in time, and was killed"


def _request_stop(settings: Settings, pidfd: int) -> float:
    """Order it to stop, or signal it if it does not answer; returns the seconds that it may drain.

    (The order may be repeated. A second TERM would end the draining.)
    """
    try:
        drained_within: float = json.loads(ask(settings, "stop"))["drained_within"]
    except LoncError:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        return settings.drain_timeout
    return drained_within


def _ends_within(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


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
            if path.is_socket() and listening_pid(path, patience=CHILDREN_END_WITHIN) is None:
                path.unlink()
        remove_key_files(settings.socket_directory)
        remove_left_links(settings.socket_directory)
    return []
