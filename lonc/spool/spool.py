"""The directory `delayed/` with one file for each delayed transaction, and the permanent log.

A file contains a request and a newline, and is named `TIME.COUNT.PID.COMMAND.HOSTID`, as in LON-CAPA.
Programs write the files while a host is unreachable, through `lonc.lonnet` or LON-CAPA's own lonnet. The
host's child sends the requests when it can, and removes the files. With a key file `save` seals the
requests; then the log has only their commands. A file name never has more of a request.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lonc.configuration import Settings
from lonc.errors import Fault, Misconfigured
from lonc.runtime.atomic_file import atomic_file, create_temporary, sync_directory, write_all
from lonc.setting_types import HOST_ID
from lonc.spool.sealing import read_keys

BAD = "bad"  # the directory, below delayed/, of files that can never be carried out
DIRECTORY_MODE = 0o2770  # set-group-ID: files get the directory's group, whichever user writes them
FILE_MODE = 0o660
COMMAND_LENGTH = 16  # bytes of a command; of these, the word characters are in the file name

DELAYED, FAILED, SENT = "D", "F", "S"  # kinds of records in the permanent log

_NAME = re.compile(
    rf"([0-9]{{1,18}})\.([0-9]{{1,18}})\.([0-9]{{1,18}})\.(\w{{0,16}})\.({HOST_ID.pattern})", re.ASCII
)

# Bytes that could end a line or control a terminal: ASCII control characters, and in UTF-8 those from
# U+0080 on and the line and paragraph separators.
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")

# The part of a request that is not secret: the word before its first colon or blank.
_COMMAND = re.compile(rb"(?:encrypt:)?[^: \t]*")
_COMMAND_IN_NAME = re.compile(rb"[^: \t]*")  # a name is seen by more users than the log
# A client may put the id of the host in front; `lonc.child.own_requests` recognizes these as well.
_TRAVELS_ENCRYPTED = re.compile(rb"(?:sethost:[^:\n]*:)?encrypt:")

_LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC  # O_NONBLOCK: it may be a FIFO


@dataclass(frozen=True, order=True)
class Name:
    """The name of a file. Names sort in the order in which the transactions were saved.

    `text` is the spelling. Numbers may have leading zeros, so two files can differ in `text` only.
    """

    time: int  # UNIX time
    count: int  # within that second
    pid: int  # of the writer
    command: str
    host: str
    text: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not self.text:
            text = f"{self.time}.{self.count}.{self.pid}.{self.command}.{self.host}"
            object.__setattr__(self, "text", text)

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """The parts of `text`; None if it is not the name of a transaction."""
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        when, count, pid, command, host = match.groups()
        return cls(int(when), int(count), int(pid), command, host, text)

    def __str__(self) -> str:
        return self.text


class Listing(NamedTuple):
    """The names in the directory, each list sorted."""

    waiting: list[Name]  # transactions, in the order in which they were saved
    impossible: list[str]  # names that no transaction can have
    unfinished: list[str]  # files that `save` is writing, or that a killed writer has left


def listing(directory: Path) -> Listing:
    """Scan the directory; a missing one counts as empty. Raises OSError."""
    found = Listing([], [], [])
    for text in _list(directory):
        if text.startswith("."):  # the temporary name of a file that is being written
            if Name.parse(text[1:]) is not None:
                found.unfinished.append(text)
        elif (name := Name.parse(text)) is not None:
            found.waiting.append(name)
        elif text != BAD:
            found.impossible.append(text)
    for names in found:
        names.sort()
    return found


def waiting(directory: Path) -> tuple[list[Name], list[str]]:
    """The transactions, and the impossible names. Raises OSError."""
    return listing(directory)[:2]


def names_of(directory: Path, host: str) -> list[Name]:
    """The transactions that wait for `host`, in no order. Raises OSError."""
    names = (Name.parse(text) for text in _list(directory) if text.endswith(f".{host}"))
    return [name for name in names if name is not None and name.host == host]


def newest(directory: Path, host: str) -> tuple[int, int] | None:
    """Time and count of the newest transaction that waits for `host`; None if there is none.

    Raises OSError.
    """
    matches = (_NAME.fullmatch(text) for text in _list(directory) if text.endswith(f".{host}"))
    return max(((int(match[1]), int(match[2])) for match in matches if match), default=None)


def save(settings: Settings, request: bytes, host: str) -> None:
    """Save `request`, without its newline, behind all transactions that wait for `host`.

    When this returns, the request is on the disk and will be carried out. Raises OSError; Misconfigured
    if the key file cannot be used. Then nothing is saved.
    """
    directory = settings.delayed_directory
    keys = None if settings.delayed_key_file is None else read_keys(settings.delayed_key_file)
    make_directory(directory)
    fd, temporary, path = _create(directory, request, host)
    with atomic_file(fd, temporary, path):  # replaces no file: see _create
        content = request + b"\n"
        write(fd, content if keys is None else keys.seal(content, host, path.name), path.name)
    try:
        sync_directory(directory)
    except OSError:
        # If the file cannot be removed either, the request may be carried out although we report a
        # failure. That is allowed, as for a request that was sent and got no reply. To report success
        # is not: the next loss of power could break that promise.
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def unseal(settings: Settings, sealed: bytes, name: Name) -> bytes:
    """The content that was sealed in the file of that name.

    Raises ValueError if it was cut or altered, or its key is unknown; Misconfigured if the key file is
    not set or cannot be used.
    """
    if settings.delayed_key_file is None:
        file = settings.delayed_directory / name.text
        raise Misconfigured([Fault(file, None, "it is sealed, and loncDelayedKeyFile is not set")])
    return read_keys(settings.delayed_key_file).open(sealed, name.host, name.text)


def make_directory(directory: Path) -> None:
    """Create the directory, unless it exists; its parent must exist. Raises OSError."""
    try:
        os.mkdir(directory)
    except OSError:
        if os.path.isdir(directory):
            return
        raise
    try:
        _set_mode(directory)
        sync_directory(directory.parent)
    except OSError:
        with contextlib.suppress(OSError):
            os.rmdir(directory)
        raise


def _set_mode(created: Path) -> None:
    """DIRECTORY_MODE, whatever the umask; but not for a directory that another user has put there."""
    fd = os.open(created, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            os.fchmod(fd, DIRECTORY_MODE)
    finally:
        os.close(fd)


def make_log(settings: Settings) -> None:
    """Create the permanent log with the group of `delayed/`, so that its group can write records.

    Without permission for that it does nothing: the first writer creates the log.
    """
    with contextlib.suppress(OSError):
        fd = _open_log(settings.perm_log)
        try:
            os.fchown(fd, -1, os.stat(settings.delayed_directory).st_gid)
        finally:
            os.close(fd)


def record(settings: Settings, kind: str, host: str, request: bytes) -> None:
    """Append a line to the permanent log: what happened to `request`, which has no newline.

    `kind` is DELAYED, FAILED or SENT. If requests are sealed, and for each request that travels
    encrypted, only the command is recorded: the rest may contain a password. Raises OSError.
    """
    if settings.delayed_key_file is not None or _TRAVELS_ENCRYPTED.match(request):
        request = command_of(request)
    printable = _CONTROL.sub(lambda match: b"".join(rb"\x%02x" % byte for byte in match[0]), request)
    now = time.time()
    line = b"%d:%b:%b:%b:%b\n" % (now, kind.encode(), host.encode(), printable, time.ctime(now).encode())
    fd = _open_log(settings.perm_log)
    try:
        if _lacks_newline(settings.perm_log):
            line = b"\n" + line
        if os.write(fd, line) != len(line):  # one call: other processes append at the same time
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def command_of(request: bytes) -> bytes:
    """The part of a request that is not secret: `put`, `encrypt:auth`."""
    found = _COMMAND.match(request)
    assert found is not None, "it matches the empty text too"
    return found[0]


def _command_in_name(request: bytes) -> str:
    """The word characters of the command; nothing from behind `encrypt:`."""
    found = _COMMAND_IN_NAME.match(request)
    assert found is not None, "it matches the empty text too"
    return re.sub(rb"\W", b"", found[0][:COMMAND_LENGTH]).decode()


def move_to_bad(directory: Path, text: str) -> None:
    """Move the file `text`, which can never be carried out, to `bad/`. Raises OSError.

    If `bad/` has a file of that name, a number is appended.
    """
    bad = directory / BAD
    make_directory(bad)
    target = bad / text
    for number in itertools.count(1):
        if not os.path.lexists(target):
            break
        target = bad / f"{text}.{number}"
    os.rename(directory / text, target)


def _list(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _create(directory: Path, request: bytes, host: str) -> tuple[int, Path, Path]:
    """Create an empty file under a temporary name. Returns its descriptor, that name and its final name.

    No file has the final name, nor can one get it: the temporary name is the final one behind a dot, and
    every writer must create that first.
    """
    command = _command_in_name(request)
    while True:
        path = directory / str(_next_name(directory, command, host))
        try:
            fd, temporary = create_temporary(path, FILE_MODE)
        except FileExistsError:  # left by a killed process that had our pid
            continue
        if not os.path.lexists(path):
            return fd, temporary, path
        os.close(fd)
        os.unlink(temporary)


# Time and count of the newest name by directory and host. A name is never used twice, even if the clock
# was set back and the first file is gone: a reader that scans now and then would take two files of one
# name for one.
_last_used: dict[tuple[Path, str], tuple[int, int]] = {}
_names_lock = threading.RLock()  # reentrant: a signal handler may save as well
os.register_at_fork(
    before=_names_lock.acquire,
    after_in_parent=_names_lock.release,
    after_in_child=_names_lock.release,
)


def _next_name(directory: Path, command: str, host: str) -> Name:
    """A name behind all transactions that wait for `host`, even if the clock was set back."""
    with _names_lock:
        used = _last_used.get((directory, host), (-1, -1))
        last, last_count = max(newest(directory, host) or used, used)
        now = int(time.time())
        when, count = (now, 0) if now > last else (last, last_count + 1)
        name = Name(when, count, os.getpid(), command, host)
        if Name.parse(str(name)) is None:  # a file has the highest number already
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW), str(directory / str(name)))
        _last_used[directory, host] = when, count
    return name


def write(fd: int, content: bytes, text: str) -> None:
    """Write all of `content` to a new file, wait until the disk has it, and read it back.

    `text` is the name that the file will get; the file is marked as ours (`is_ours`). Raises OSError.
    """
    os.fchmod(fd, FILE_MODE)  # whatever the umask
    write_all(fd, content)
    _mark(fd, text)
    os.fsync(fd)
    if os.pread(fd, len(content) + 1, 0) != content:
        raise OSError(errno.EIO, "what is read is not what was written")


def is_ours(name: Name, mtime_ns: int) -> bool:
    """Whether the file was written by `save` or `reseal`, so that it was renamed into place whole.

    Such a file has the whole second of its name as the time of its change; a file that was written in
    place has the time of its last write. On a file system without fractions of a second the two may
    agree: the reader must still check that the content is complete.
    """
    return mtime_ns == name.time * 1_000_000_000


def _mark(fd: int, text: str) -> None:
    name = Name.parse(text)
    assert name is not None, "a file that is saved has a possible name"
    # A file without the mark is carried out too, a second later. The time may be out of range.
    with contextlib.suppress(OSError, OverflowError):
        os.utime(fd, ns=(name.time * 1_000_000_000,) * 2)


def _open_log(file: Path) -> int:
    try:
        return _open_trusted(file)
    except FileNotFoundError:
        pass
    try:
        fd = os.open(file, _LOG_FLAGS | os.O_CREAT | os.O_EXCL, FILE_MODE)
    except FileExistsError:  # another process was first
        return _open_trusted(file)
    with contextlib.suppress(OSError):
        os.fchmod(fd, FILE_MODE)  # whatever the umask
    return fd


def _open_trusted(file: Path) -> int:
    """Follows a link only if root or we own it.

    Otherwise the daemon's user, who may write in that directory, could make root append to any file.
    """
    try:
        return os.open(file, _LOG_FLAGS | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP or os.lstat(file).st_uid not in (0, os.geteuid()):
            raise
    return os.open(file, _LOG_FLAGS)


def _lacks_newline(file: Path) -> bool:
    """Whether a full disk has cut off the last record: it needs its newline before the next record."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        size = os.fstat(fd).st_size
        return size > 0 and os.pread(fd, 1, size - 1) != b"\n"
    except OSError:
        return False
    finally:
        os.close(fd)
