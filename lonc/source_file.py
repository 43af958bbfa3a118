"""Reads a file as numbered lines, with its faults as a text, and notices later changes of it."""

from __future__ import annotations

import codecs
import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from lonc.errors import AtStart, Fault

CARRIAGE_RETURN = "a carriage return inside the line"
UNFINISHED = "the last line has no newline: the file may be being written"


class FileState(NamedTuple):
    """`identity` (of the inode) changes whenever a file is written; `digest` only with its content.

    Both are None for a file that is missing or cannot be read.
    """

    path: Path
    identity: tuple[int, ...] | None = None
    digest: bytes | None = None


class SourceFile(NamedTuple):
    """`lines` are numbered from 1, and without their line ends."""

    state: FileState
    lines: list[tuple[int, bytes]]
    faults: list[Fault]


def read_file(path: Path, broken_line: AtStart) -> SourceFile:
    """Read `path`. Raises OSError.

    `broken_line`: what a start does about a line that cannot be read.

    A byte order mark is skipped. A line that contains a carriage return is a fault, and not among the
    lines: it may be two lines of a system that ends lines so.
    """
    with path.open("rb") as file:
        identity = _identity(os.fstat(file.fileno()))
        data = file.read()
    state = FileState(path, identity, hashlib.blake2b(data, digest_size=16).digest())
    numbered = list(enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), start=1))
    faults = []
    if numbered[-1][1].strip():
        faults.append(Fault(path, len(numbered), UNFINISHED, AtStart.WARNS))
    else:
        numbered.pop()
    lines = []
    for number, line in numbered:
        without_end = line.rstrip(b"\r")
        if b"\r" in without_end:
            faults.append(Fault(path, number, CARRIAGE_RETURN, broken_line))
        else:
            lines.append((number, without_end))
    return SourceFile(state, lines, faults)


def has_changed(state: FileState) -> bool:
    """Whether the file has been written, replaced or removed, or has come, since it was in `state`."""
    try:
        return _identity(state.path.stat()) != state.identity
    except OSError:
        return state.identity is not None


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
