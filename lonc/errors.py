"""What can go wrong, and who acts on it.

    LoncError
    ├── UsageError        the command line asks for what does not exist: cli says so, exit 2
    ├── Misconfigured     faults in loncapa.conf or hosts.tab: cli prints them all, exit 6
    ├── CannotStart       the machine or another daemon is in the way: cli says so, exit 1
    ├── ProtocolError     lond broke the dialogue: lond_connection closes that connection
    └── LineTooLong       a line passed its limit: client answers it and closes, lond_connection closes

An OSError of a socket never leaves the module that made the call: there it becomes the reason of a
close.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


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


class UsageError(LoncError):
    """The command line names something that is not there."""


class Misconfigured(LoncError):
    """One or more faults in the configuration or the hosts table."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = tuple(faults)


class CannotStart(LoncError):
    """lonc would start, but something outside its files forbids it."""


class ProtocolError(LoncError):
    """lond said what the dialogue does not allow."""


class LineTooLong(LoncError):
    """A line is longer than its limit, whether its newline has come or not."""
