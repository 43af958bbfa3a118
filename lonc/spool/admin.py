"""What may be done by hand to delayed transactions: those that wait, and those put aside as bad.

Whoever changes a file has it locked, as a child has what is in flight, and knows by then that it still
is the file of that name. A child that opened what was replaced meanwhile finds that out, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lonc.configuration import Settings
from lonc.errors import LoncError, Misconfigured, UsageError
from lonc.runtime.atomic_file import appearing, sync_directory
from lonc.spool import spool
from lonc.spool.sealing import FOOT, HEAD, LONGEST_ID, Keyring, is_sealed, sealed_by
from lonc.spool.spool import BAD, Name

# lonnet of LON-CAPA looks two seconds later whether what it has written is there.
READ_BACK_WITHIN = 3.0


class Entry(NamedTuple):
    """A file, and the name its transaction has or had; None if no transaction can have it."""

    path: Path
    name: Name | None

    @property
    def host(self) -> str:
        return "-" if self.name is None else self.name.host


def waiting(settings: Settings) -> list[Entry]:
    """What waits, in its order. Raises LoncError."""
    directory = settings.delayed_directory
    try:
        return [Entry(directory / name.text, name) for name in spool.waiting(directory)[0]]
    except OSError as error:
        raise LoncError(f"cannot read {directory}: {error.strerror}") from error


def bad(settings: Settings) -> list[Entry]:
    """What was put aside. Raises LoncError."""
    directory = settings.delayed_directory / BAD
    try:
        texts = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoncError(f"cannot read {directory}: {error.strerror}") from error
    # Where another of that name lay there already, it has a number behind it.
    return [
        Entry(directory / text, Name.parse(text) or Name.parse(text.rpartition(".")[0]))
        for text in texts
    ]


def find(settings: Settings, text: str, only_bad: bool) -> Entry:
    """What waits under this name, else what is bad; or only that. Raises UsageError, LoncError."""
    if not only_bad and (name := Name.parse(text)) is not None:
        path = settings.delayed_directory / text
        if os.path.lexists(path):
            return Entry(path, name)
    for entry in bad(settings):
        if entry.path.name == text:
            return entry
    raise UsageError("nothing bad has that name" if only_bad else "nothing has that name")


def sealed_with(entry: Entry) -> str | None:
    """The id of the key, `damaged` if that cannot be known, None if it is plain.

    Raises LoncError, OSError.
    """
    with _opened(entry) as fd:
        head = os.pread(fd, len(HEAD) + LONGEST_ID + 1, 0)
        tail = os.pread(fd, len(FOOT), max(0, os.fstat(fd).st_size - len(FOOT)))
    if is_sealed(head) or is_sealed(tail):
        return sealed_by(head) or "damaged"
    return None


def request(settings: Settings, entry: Entry) -> bytes:
    """The request itself, without its newline.

    Raises LoncError, OSError; Misconfigured if it is sealed and there are no keys; ValueError if it does
    not open.
    """
    with _opened(entry) as fd:
        return _request(settings, _content(fd), entry)


def reseal(keys: Keyring, entry: Entry) -> str | None:
    """Put what is plain, or sealed with another key, under the first one; its name and place remain.

    Returns what was done. Raises LoncError, OSError, ValueError if it is sealed and does not open.
    """
    assert entry.name is not None, "what waits has a possible name"
    try:
        if sealed_with(entry) == keys.first:
            return None
        _let_its_writer_finish(entry.path)
        with _locked(entry) as fd:
            content = _content(fd)
            if is_sealed(content):
                content = keys.open(content, entry.host, entry.name.text)
            if content.count(b"\n") != 1 or not content.endswith(b"\n"):  # lonnet writes in place
                raise LoncError("it is not one whole line")
            _replace(entry.path, keys.seal(content, entry.host, entry.name.text), os.fstat(fd))
    except FileNotFoundError:
        return "gone meanwhile"
    sync_directory(entry.path.parent)
    return f"sealed with {keys.first}"


def requeue(settings: Settings, entry: Entry) -> str:
    """Let what was bad wait again, under its own name. Returns what was done.

    Raises LoncError, OSError.
    """
    if entry.name is None:
        raise LoncError("no transaction can have that name")
    place = settings.delayed_directory / entry.name.text
    if os.path.lexists(place):
        raise LoncError(f"{place} is there already")
    os.rename(entry.path, place)
    sync_directory(place.parent)
    return "waits again" if place.name == entry.path.name else f"waits again, as {place.name}"


def drop(settings: Settings, entry: Entry) -> str:
    """Remove and record it: it will not be carried out. Returns what was done.

    Raises LoncError, OSError.
    """
    with _locked(entry) as fd:
        content = _content(fd)
        os.unlink(entry.path)
    sync_directory(entry.path.parent)
    try:
        dropped = _request(settings, content, entry)
    except (ValueError, Misconfigured):
        dropped = b"" if entry.name is None else entry.name.command.encode()
    try:
        spool.record(settings, spool.FAILED, entry.host, dropped)
    except OSError as error:
        raise LoncError(f"dropped, but cannot write {settings.perm_log}: {error.strerror}") from error
    return "dropped"


def _request(settings: Settings, content: bytes, entry: Entry) -> bytes:
    if is_sealed(content):
        if entry.name is None:
            raise ValueError("it is sealed, and had another name")
        content = spool.unseal(settings, content, entry.name)
    return content.removesuffix(b"\n")


def _let_its_writer_finish(path: Path) -> None:
    """A writer that reads back something else would tell its caller that it was lost."""
    age = time.time() - os.lstat(path).st_mtime
    if 0 <= age < READ_BACK_WITHIN:
        time.sleep(READ_BACK_WITHIN - age)


def _replace(path: Path, content: bytes, like: os.stat_result) -> None:
    """The file at once has this content, and all its rights. Raises LoncError, OSError."""
    own = path.with_name(f".{path.name}")
    try:
        fd = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, spool.FILE_MODE)
    except FileExistsError as error:
        text = f"{own} is in the way: another writer's, or left by one that died; then remove it"
        raise LoncError(text) from error
    with appearing(fd, own, path):
        with contextlib.suppress(PermissionError):  # its group may do all that its owner may
            os.fchown(fd, like.st_uid, -1)
        if os.fstat(fd).st_gid != like.st_gid:
            os.fchown(fd, -1, like.st_gid)
        spool.write(fd, content)


@contextlib.contextmanager
def _opened(entry: Entry) -> Iterator[int]:
    """Raises LoncError, OSError."""
    fd = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise LoncError("it is no file")
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _locked(entry: Entry) -> Iterator[int]:
    """The file of that name, while no child has it in flight. Raises LoncError, OSError."""
    with _opened(entry) as fd:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LoncError("it is in flight") from None
        if not os.path.samestat(os.lstat(entry.path), os.fstat(fd)):
            raise LoncError("it was replaced meanwhile")
        yield fd


def _content(fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        return file.read()
