"""The operator's actions on delayed transactions: on waiting ones, and on the rejected ones in `bad/`.

An action locks a file before it changes it, as a child does while the request is in flight, and then
checks that the name still belongs to the locked file. A child makes the same check. So only root and the
daemon's user can change a file.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lonc.configuration import Settings
from lonc.errors import LoncError, Misconfigured, UsageError
from lonc.runtime.directory import Directory
from lonc.spool import spool
from lonc.spool.locks import SpoolLocks
from lonc.spool.sealing import FOOT, HEAD, LONGEST_ID, Keyring, is_sealed, longest_sealed, sealed_by
from lonc.spool.spool import BAD, Name

# LON-CAPA's lonnet reads its file back two seconds after writing it.
READ_BACK_WITHIN = 3.0


class TooLong(LoncError):
    """A file is longer than any request."""


class Entry(NamedTuple):
    """A file, and the name of its transaction: None if the file's name is impossible."""

    path: Path
    name: Name | None

    @property
    def host(self) -> str:
        return "-" if self.name is None else self.name.host


def waiting(settings: Settings) -> list[Entry]:
    """The waiting transactions, oldest first. Raises LoncError."""
    directory = settings.delayed_directory
    try:
        return [Entry(directory / name.text, name) for name in spool.waiting(directory)[0]]
    except OSError as error:
        raise LoncError(f"cannot read {directory}: {error.strerror}") from error


def bad(settings: Settings) -> list[Entry]:
    """The rejected transactions. Raises LoncError."""
    directory = settings.delayed_directory / BAD
    try:
        with Directory(directory) as opened:
            texts = sorted(opened.names())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LoncError(f"cannot read {directory}: {error.strerror}") from error
    # move_to_bad appends a number if the name is taken.
    return [
        Entry(directory / text, Name.parse(text) or Name.parse(text.rpartition(".")[0]))
        for text in texts
    ]


def find(settings: Settings, text: str, only_bad: bool) -> Entry:
    """The file `text`, waiting or else rejected; with `only_bad` a rejected one.

    Raises UsageError if there is none; LoncError.
    """
    if not only_bad and (name := Name.parse(text)) is not None:
        with contextlib.suppress(FileNotFoundError), Directory(settings.delayed_directory) as directory:
            if directory.stat(text) is not None:
                return Entry(directory.path / text, name)
    for entry in bad(settings):
        if entry.path.name == text:
            return entry
    raise UsageError(
        "there is no bad file of that name" if only_bad else "there is no file of that name"
    )


def stat_of(entry: Entry) -> os.stat_result | None:
    """The status of the file; None if it is gone. Raises OSError."""
    with Directory(entry.path.parent) as directory:
        return directory.stat(entry.path.name)


def sealed_with(entry: Entry) -> str | None:
    """The id of the key that sealed a file; `damaged` if it cannot be read; None if the file is plain.

    Raises LoncError, OSError.
    """
    with _opened(entry) as (_, fd):
        head = os.pread(fd, len(HEAD) + LONGEST_ID + 1, 0)
        tail = os.pread(fd, len(FOOT), max(0, os.fstat(fd).st_size - len(FOOT)))
    if is_sealed(head) or is_sealed(tail):
        return sealed_by(head) or "damaged"
    return None


def request(settings: Settings, entry: Entry) -> bytes:
    """The request in a file, without its newline.

    Raises LoncError; OSError; Misconfigured if it is sealed and the key file is not set or cannot be
    used; ValueError if it does not open.
    """
    with _opened(entry) as (_, fd):
        return _request(settings, _content(settings, fd), entry)


def reseal(settings: Settings, keys: Keyring, entry: Entry, plain: bool = False) -> str | None:
    """Seal a waiting file with the first key, unless it is; or unseal it, if it is to be `plain`.

    Its name and its place in the order remain. Returns what was done; None: nothing. Raises LoncError;
    OSError; ValueError if the file is sealed and does not open.
    """
    if entry.name is None:
        raise LoncError("no transaction can have that name")
    try:
        if sealed_with(entry) == (None if plain else keys.first):
            return None
        _wait_for_writer(entry)
        with _locked(settings, entry) as (directory, fd):
            content = _content(settings, fd)
            if is_sealed(content):
                content = keys.open(content, entry.host, entry.name.text)
            if content.count(b"\n") != 1 or not content.endswith(b"\n"):  # lonnet writes in place
                raise LoncError("it is not one whole line")
            if not plain:
                content = keys.seal(content, entry.host, entry.name.text)
            _replace(directory, entry.name.text, content, os.fstat(fd))
            directory.sync()
    except FileNotFoundError:
        return "already gone"
    return "plain" if plain else f"sealed with {keys.first}"


def requeue(settings: Settings, entry: Entry) -> str:
    """Move a rejected file back to the waiting ones, under its own name. Returns what was done.

    Raises LoncError, OSError.
    """
    if entry.name is None:
        raise LoncError("no transaction can have that name")
    text, target = entry.path.name, entry.name.text
    with Directory(settings.delayed_directory) as directory, directory.subdirectory(BAD) as rejected:
        if directory.stat(target) is not None:
            raise LoncError(f"{directory.path / target} exists")
        rejected.rename(text, target, directory)
        directory.sync()
    return "waits again" if target == text else f"waits again, as {target}"


def drop(settings: Settings, entry: Entry) -> str:
    """Remove a file and record that its request failed. Returns what was done.

    Raises LoncError, OSError.
    """
    with _locked(settings, entry) as (directory, fd):
        content = None
        with contextlib.suppress(TooLong):
            content = _content(settings, fd)
        directory.unlink(entry.path.name)
        directory.sync()
    try:
        if content is None:
            raise ValueError("it is too long for a record")
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
            raise ValueError("it is sealed, and was renamed")
        content = spool.unseal(settings, content, entry.name)
    return content.removesuffix(b"\n")


def _wait_for_writer(entry: Entry) -> None:
    """A writer that reads back other content than its own would report a failure to its caller."""
    found = stat_of(entry)
    if found is None:
        raise FileNotFoundError
    age = time.time() - found.st_mtime
    if 0 <= age < READ_BACK_WITHIN:
        time.sleep(READ_BACK_WITHIN - age)


def _replace(directory: Directory, text: str, content: bytes, like: os.stat_result) -> None:
    """Replace the content of the file `text` in one step, with the owner and group `like`.

    Raises LoncError, OSError.
    """
    temporary = f".{text}"
    try:
        fd = directory.create(temporary, spool.FILE_MODE)
    except FileExistsError as error:
        why = (
            f"{directory.path / temporary} exists: another process is writing, or was killed;"
            " in that case remove it"
        )
        raise LoncError(why) from error
    with directory.filling(fd, temporary, text):
        with contextlib.suppress(PermissionError):  # the daemon's user may remain the owner
            os.fchown(fd, like.st_uid, -1)
        if os.fstat(fd).st_gid != like.st_gid:
            os.fchown(fd, -1, like.st_gid)
        spool.write(fd, content, text)


@contextlib.contextmanager
def _opened(entry: Entry) -> Iterator[tuple[Directory, int]]:
    """The directory of the file, and its descriptor.

    Raises LoncError if it is not a regular file; OSError.
    """
    with Directory(entry.path.parent) as directory:
        fd = directory.open(entry.path.name)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise LoncError("it is not a regular file")
            yield directory, fd
        finally:
            os.close(fd)


@contextlib.contextmanager
def _locked(settings: Settings, entry: Entry) -> Iterator[tuple[Directory, int]]:
    """As `_opened`, and locked. Raises LoncError if a child has it in flight; OSError."""
    locks = SpoolLocks(settings)
    with _opened(entry) as (directory, fd):
        try:
            if not locks.take(fd):
                raise LoncError("it is in flight")
            now = directory.stat(entry.path.name)
            if now is None:
                raise FileNotFoundError
            if not os.path.samestat(now, os.fstat(fd)):
                raise LoncError("it was replaced in the meantime")
            yield directory, fd
        finally:
            locks.release(fd)


def _content(settings: Settings, fd: int) -> bytes:
    """All of a file that has not more bytes than a request may have. Raises TooLong, OSError."""
    longest = longest_sealed(settings.max_request + 1)
    content = b""
    if os.fstat(fd).st_size <= longest:
        with open(fd, "rb", closefd=False) as file:
            content = file.read(longest + 1)  # it may grow
        if len(content) <= longest:
            return content
    raise TooLong(f"it is longer than {settings.max_request} bytes")
