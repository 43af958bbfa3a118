"""Ends the daemon from outside: lets it drain, kills it if that takes too long, clears up after it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat

from lonc.configuration import HOST_ID, Settings
from lonc.control import ask_phase
from lonc.errors import CannotStart, LoncError, NoPermission
from lonc.instance import State, find, hold, settled
from lonc.status import Phase

KILL_AFTER = 5.0  # seconds beyond the drain timeout until we wait no more


def stop(settings: Settings) -> str:
    """Let the daemon drain, wait for its end, and kill it if that does not come; returns what was done.

    One that is stopping already is not told again: a second TERM would cut it short.
    Raises NoPermission, and LoncError where nobody can tell whether it runs.
    """
    found = settled(settings)
    if found.state in (State.NOT_RUNNING, State.DEAD):
        return "lonc is not running"
    if found.pid is None:
        raise LoncError(found.why)
    try:
        pidfd = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return "lonc has ended meanwhile"
    try:
        if find(settings) != found:  # the pid could be another's by now
            return "lonc has ended meanwhile"
        if ask_phase(settings) is not Phase.STOPPING:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        if _ends(pidfd, settings.drain_timeout + KILL_AFTER):
            return "lonc is stopped"
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        _ends(pidfd, KILL_AFTER)
    except PermissionError as error:
        raise NoPermission(f"cannot end process {found.pid}: {error.strerror}") from error
    except ProcessLookupError:
        return "lonc is stopped"
    finally:
        os.close(pidfd)
    _clear_up(settings)
    return "lonc did not end in time, and was killed"


def _ends(pidfd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _clear_up(settings: Settings) -> None:
    """Remove what a daemon that was killed has left; who holds the locks owns it."""
    with contextlib.suppress(CannotStart, OSError), hold(settings):
        settings.control_file.unlink(missing_ok=True)
        for path in settings.socket_directory.iterdir():
            if HOST_ID.fullmatch(path.name) and stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
