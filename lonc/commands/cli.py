"""The command line: parses the arguments, runs one command and returns its exit status."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence

from lonc.commands.declarations import COMMANDS, GROUPS
from lonc.commands.output import print_error
from lonc.commands.usage import Parser, build_parser
from lonc.errors import FAILED, LoncError

__all__ = ["COMMANDS", "GROUPS", "main", "parser"]


def parser() -> Parser:
    """The parser of all commands; `usage.build_parser` describes what it sets."""
    return build_parser(COMMANDS, GROUPS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. `arguments`: by default those of the process."""
    _open_standard_streams()
    try:
        options = parser().parse_args(arguments)
        status: int = options.run(options)
        sys.stdout.flush()
    except LoncError as error:
        print_error(error)
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        # The reader of our output is gone; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE:
            print_error(f"cannot write the output: {error.strerror}")
        return FAILED
    return status


def _open_standard_streams() -> None:
    """Replace standard streams that were closed before the start by /dev/null."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
