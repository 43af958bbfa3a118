"""lonc's exceptions, who handles each, and the exit statuses.

    LoncError
    ├── UsageError      the command line names a host, command or file that does not exist
    │                   cli prints it
    ├── Misconfigured   loncapa.conf, hosts.tab or the key file has faults
    │                   cli prints all; a reload is refused and the old settings stay
    │                   key file only: lonnet does not save the request, replay keeps sealed files
    ├── CannotStart     the configuration has no fault, but the system does not allow to start
    │   │               cli prints it; a reload is refused and the old settings stay
    │   └── Busy        another daemon holds a lock: `start` checks whether it has the same configuration
    ├── NotRunning      there is no daemon: cli prints it; `top` waits for one
    ├── NoPermission    the daemon belongs to another user: cli prints it
    └── ProtocolError   lond broke the protocol: lond_connection closes the connection
        ├── OutOfStep   replies come one request late: the same, and it is counted
        └── PlainReply  an enciphered request was answered in clear: the same; lond is no less alive

runtime/ has exceptions of its own, since it knows nothing of lonc:

    LineTooLong         client replies with an error and closes; channel closes; lond_protocol raises
                        ProtocolError
    CannotListen        the parent and `start` raise CannotStart, or print it

An OSError of a socket is caught in the module that made the system call, and becomes the reason for
which the connection is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
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
    (MISCONFIGURED, "", "Faults in the configuration, the tables or the key file, or no such file."),
    (NOT_RUNNING, "", "lonc is not running."),
    (INTERRUPTED, "", "Interrupted by ^C."),
    (DONE, "start", "lonc is running, also if it was running before."),
    (DONE, "stop", "lonc is not running, also if it was not running before."),
    (FAILED, "check", "The files have no faults, and lonc would not start; the reason is printed."),
    (FAILED, "reload", "A child did not start, or a changed setting needs a restart."),
    (DONE, "send", "lond replied, or the request was saved (`con_delayed`)."),
    (FAILED, "send", "There was no reply (`con_lost`), or it could not be saved (`con_failed`)."),
    (FAILED, "ping", "A host did not reply, or another id replied than the one that was asked."),
    (0, "status", "lonc is running."),
    (1, "status", "lonc is dead, and its pid file exists."),
    (3, "status", "lonc is not running."),
    (4, "status", "Unknown: no permission, or lonc does not answer."),
    (0, "check-health", "OK."),
    (1, "check-health", "WARNING."),
    (2, "check-health", "CRITICAL."),
    (3, "check-health", "UNKNOWN."),
)


class AtStart(Enum):
    """What a start does about a fault. A reload is refused whatever the fault is."""

    REFUSES = "the start is refused"
    SKIPS = "the line is logged as an error and skipped"
    WARNS = "the line is taken, and a warning is logged"


@dataclass(frozen=True)
class Fault:
    """A fault at `line` of `file`, or of the whole file if `line` is None; `text` is a sentence."""

    file: Path
    line: int | None
    text: str
    at_start: AtStart = AtStart.REFUSES

    def __str__(self) -> str:
        place = f"{self.file}" if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.text}"


class LoncError(Exception):
    """The base class of lonc's exceptions; the text is a sentence for a person."""

    exit_status = FAILED  # of the command that it ends


class UsageError(LoncError):
    """The command line names something that does not exist."""

    exit_status = USAGE


class Misconfigured(LoncError):
    """One or more faults in loncapa.conf, hosts.tab or the key file; one line of text each."""

    exit_status = MISCONFIGURED

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


class CannotStart(LoncError):
    """The configuration has no fault, but the system does not allow lonc to start or to reload."""


class Busy(CannotStart):
    """Another daemon holds a lock that this one needs."""


class NotRunning(LoncError):
    """There is no daemon."""

    exit_status = NOT_RUNNING


class NoPermission(LoncError):
    """The daemon belongs to another user."""

    exit_status = PERMISSION


class ProtocolError(LoncError):
    """lond sent something that the protocol does not allow."""


class OutOfStep(ProtocolError):
    """Replies on a connection belong to the requests before: lond has said a line unasked."""


class PlainReply(ProtocolError):
    """lond has answered an enciphered request in clear, where that is not allowed."""
