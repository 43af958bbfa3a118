"""Ends the daemon from outside: lets it drain, kills it if that takes too long, clears up after it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lonc.configuration import Settings
from lonc.errors import CannotStart, LoncError, NoPermission
from lonc.hosts import Host
from lonc.lifecycle.control_client import ask
from lonc.lifecycle.instance import PAUSE, State, find, hold, settled
from lonc.lifecycle.privileges import answered_as, identity

KILL_AFTER = 5.0  # seconds beyond the drain timeout until we wait no more
CHILDREN_END_WITHIN = 1.0  # seconds


def stop(settings: Settings, hosts: Sequence[Host]) -> str:
    """Let the daemon drain, wait for its end, and kill it if that does not come; returns what was done.

    What one that was killed has left is removed: the sockets of `hosts`, key files, and what is in the
    pid file.
    Raises NoPermission, and LoncError where nobody can tell whether it runs.
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
        if find(settings).pid != found.pid:  # it could be another's by now
            return "lonc is stopped"
        drained_within = _begin(settings, pidfd)
        if _ends(pidfd, drained_within + KILL_AFTER):
            return "lonc is stopped"
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _ends(pidfd, KILL_AFTER)
    except PermissionError as error:
        raise NoPermission(f"cannot end process {found.pid}: {error.strerror}") from error
    except ProcessLookupError:
        return "lonc is stopped"
    finally:
        os.close(pidfd)
    _clear_up(settings, hosts)
    return "lonc did not end in time, and was killed"


def _begin(settings: Settings, pidfd: int) -> float:
    """Order it to stop, or, if it does not take orders, signal it; returns the seconds it may take.

    (An order can be given twice. A second TERM would cut the draining short.)
    """
    try:
        drained_within: float = json.loads(ask(settings, "stop"))["drained_within"]
    except LoncError:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        return settings.drain_timeout
    return drained_within


def _ends(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _clear_up(settings: Settings, hosts: Sequence[Host]) -> None:
    """Who holds the locks owns what a dead daemon has left. What somebody listens at is not ours."""
    # (Others who import us need no cipher; and the user may not be able to read where Python lies.)
    from lonc.wire.key_exchange import remove_key_files

    with contextlib.suppress(CannotStart):
        remove = partial(_remove_what_is_left, settings, hosts, remove_key_files)
        answered_as(identity(settings), remove)


def _remove_what_is_left(
    settings: Settings, hosts: Sequence[Host], remove_key_files: Callable[[Path], None]
) -> list[str]:
    """As the daemon's user: there is nothing to be said."""
    with contextlib.suppress(CannotStart, OSError), hold(settings):
        paths = [settings.control_file, *(settings.socket_directory / host.name for host in hosts)]
        if settings.create_socket is not None:
            paths.append(settings.create_socket)
        for path in paths:
            if _is_dead(path):
                path.unlink()
        remove_key_files(settings.socket_directory)
    return []


def _is_dead(path: Path) -> bool:
    """Whether it is a socket at which nobody listens; children end an instant after their parent."""
    deadline = time.monotonic() + CHILDREN_END_WITHIN
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            refusal = probe.connect_ex(str(path))
        if refusal not in (0, errno.EAGAIN) or time.monotonic() > deadline:
            return refusal == errno.ECONNREFUSED
        time.sleep(PAUSE)
