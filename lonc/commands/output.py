"""What commands print: lines in which everything that others wrote is escaped."""

from __future__ import annotations

import sys

from lonc.escape import escaped


def say(text: object) -> None:
    """Print on standard output, each line escaped."""
    print("\n".join(map(escaped, str(text).split("\n"))), flush=True)


def print_error(text: object) -> None:
    """Print on standard error, `lonc: ` before each line of `text`, which is escaped."""
    for line in str(text).removesuffix("\n").split("\n"):
        print(f"lonc: {escaped(line)}", file=sys.stderr)
