"""Makes text that others wrote safe on a terminal and in a line of a log.

Such text comes from clients, londs, the daemon, tables and the names of files. Characters that cannot be
printed could end the line, move the cursor, or, as the controls of bidirectional text, show a line in
another order than it has.
"""

from __future__ import annotations

import re

_NOT_ASCII_PRINTABLE = re.compile(r"[^ -~]+")


def escaped(text: str | bytes) -> str:
    """`text` in one line, in which every character can be printed: the others are escaped, as `\\x1b`.

    Bytes are taken as UTF-8; those that are not are escaped.
    """
    if isinstance(text, bytes):
        text = text.decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return _NOT_ASCII_PRINTABLE.sub(_escape_run, text)


def escaped_bytes(line: bytes) -> bytes:
    """As `escaped`, for files that other programs read: bytes that are not UTF-8 stay as they are."""
    text = line.decode(errors="surrogateescape")
    if text.isprintable():
        return line
    return _NOT_ASCII_PRINTABLE.sub(_escape_run_of_bytes, text).encode(errors="surrogateescape")


def _escape_run(run: re.Match[str]) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in run[0])


def _escape_run_of_bytes(run: re.Match[str]) -> str:
    return "".join(
        each if each.isprintable() or "\udc80" <= each <= "\udcff" else _hex(each) for each in run[0]
    )


def _hex(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())
