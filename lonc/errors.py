"""What can go wrong, and who acts on it.

    LoncError
    ├── UsageError        the command line asks for what does not exist: cli says so
    ├── Misconfigured     faults in loncapa.conf or hosts.tab: cli prints them all, a reload refuses them
    │                     in the key file: what is to be sealed is not saved, what is sealed waits
    ├── CannotStart       the machine is in the way: cli says so, a reload too
    │   └── Busy          another daemon is: `start` looks whether it is the one that was wanted
    ├── NotRunning        there is no daemon to be asked: cli says so
    ├── NoPermission      it is not ours to ask or to end: cli says so
    └── ProtocolError     lond broke the dialogue: lond_connection closes that connection

`runtime` knows nothing of lonc and raises its own: `LineTooLong` (client answers it and closes,
lond_protocol makes it a ProtocolError) and `CannotListen` (which becomes CannotStart).

An OSError of a socket never leaves the module that made the call: there it becomes the reason of a
close.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# LSB's exit statuses.
DONE, FAILED, USAGE, PERMISSION, MISCONFIGURED, NOT_RUNNING = 0, 1, 2, 4, 6, 7
INTERRUPTED = 130

# Every exit status, its command if it is of one command only, and its meaning in the documents.
EXIT_STATUSES = (
    (DONE, "", "The command succeeded."),
    (FAILED, "", "The command failed."),
    (USAGE, "", "Wrong usage, or an unknown host or delayed transaction."),
    (PERMISSION, "", "No permission to manage the daemon."),
    (MISCONFIGURED, "", "Faults in `loncapa.conf`, `hosts.tab` or the key file, or no such file."),
    (NOT_RUNNING, "", "lonc is not running."),
    (INTERRUPTED, "", "Interrupted by ^C."),
    (DONE, "start", "lonc is running, also if it was running before."),
    (DONE, "stop", "lonc is not running, also if it was not running before."),
    (FAILED, "reload", "A child did not start, or a changed setting needs a restart."),
    (DONE, "send", "lond replied, or the request was saved (`con_delayed`)."),
    (FAILED, "send", "There was no reply (`con_lost`), or it could not be saved (`con_failed`)."),
    (0, "status", "lonc is running."),
    (1, "status", "lonc is dead, and its pid file exists."),
    (3, "status", "lonc is not running."),
    (4, "status", "Unknown: no permission, or lonc does not answer."),
    (0, "check-health", "OK."),
    (1, "check-health", "WARNING."),
    (2, "check-health", "CRITICAL."),
    (3, "check-health", "UNKNOWN."),
)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in a file, or with the file itself when `line` is None."""

    file: Path
    line: int | None
    text: str

    def __str__(self) -> str:
        place = f"{self.file}" if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.text}"


class LoncError(Exception):
    """The root of lonc's own exceptions; its text is a sentence for a person."""

    exit_status = FAILED  # of a command that ends with it


class UsageError(LoncError):
    """The command line names something that is not there."""

    exit_status = USAGE


class Misconfigured(LoncError):
    """One or more faults in the configuration, the hosts table or the key file."""

    exit_status = MISCONFIGURED

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


class CannotStart(LoncError):
    """lonc would start, but something outside its files forbids it."""


class Busy(CannotStart):
    """Another lonc holds a lock that we need."""


class NotRunning(LoncError):
    """There is no daemon."""

    exit_status = NOT_RUNNING


class NoPermission(LoncError):
    """There is a daemon, and it belongs to somebody else."""

    exit_status = PERMISSION


class ProtocolError(LoncError):
    """lond said what the dialogue does not allow."""
