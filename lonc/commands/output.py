"""What commands print: the one shape of error lines, and text that others wrote."""

from __future__ import annotations

import sys


def print_error(text: object) -> None:
    """Print on standard error, `lonc: ` before each line of `text`."""
    for line in str(text).splitlines():
        print(f"lonc: {line}", file=sys.stderr)


def printable(line: bytes) -> str:
    """Text that is safe on a terminal: what cannot be printed is escaped."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in line.decode(errors="backslashreplace")
    )
