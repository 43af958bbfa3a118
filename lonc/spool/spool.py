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
import stat
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lonc.configuration import Settings
from lonc.errors import Fault, Misconfigured
from lonc.escape import escaped_bytes
from lonc.runtime.directory import Directory, unguessable, write_all
from lonc.setting_types import HOST_ID
from lonc.spool.sealing import read_keys

BAD = "bad"  # the directory, below delayed/, of files that can never be carried out
DIRECTORY_MODE = 0o2770  # set-group-ID: files get the directory's group, whichever user writes them
# Sticky: the daemon, which owns it, removes any file, and others only their own.
OWN_DIRECTORY_MODE = 0o3770
BAD_MODE = 0o700
FILE_MODE = 0o640  # the daemon reads it; others of the group may not change it, nor give it another name
LOG_MODE = 0o660
COMMAND_LENGTH = 16  # bytes of a command; of these, the word characters are in the file name

DELAYED, FAILED, SENT = "D", "F", "S"  # kinds of records in the permanent log

_NAME = re.compile(
    rf"([0-9]{{1,18}})\.([0-9]{{1,18}})\.([0-9]{{1,18}})\.(\w{{0,16}})\.({HOST_ID.pattern})", re.ASCII
)

# The part of a request that is not secret: the word before its first colon or blank.
_COMMAND = re.compile(rb"(?:encrypt:)?[^: \t]*")
_COMMAND_IN_NAME = re.compile(rb"[^: \t]*")  # a name is seen by more users than the log
# A client may put the id of the host in front; `lonc.child.own_requests` recognizes these as well.
_TRAVELS_ENCRYPTED = re.compile(rb"(?:sethost:[^:\n]*:)?encrypt:")


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


def host_of(text: str) -> str | None:
    """The host of the transaction with that name; None if no transaction can have that name."""
    match = _NAME.fullmatch(text)
    return None if match is None else match[5]


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

    When this returns, the request is on the disk and will be carried out. Raises OSError, also if
    loncMaxDelayed or loncMaxDelayedBytes is reached; Misconfigured if the key file cannot be used. Then
    nothing is saved.
    """
    directory = settings.delayed_directory
    keys = None if settings.delayed_key_file is None else read_keys(settings.delayed_key_file)
    make_directory(directory)
    require_room(settings, len(request) + 1, host)
    with Directory(directory) as opened:
        fd, temporary, text = _create(opened, request, host)
        with opened.filling(fd, temporary, text):  # replaces no file: see _create
            content = request + b"\n"
            write(fd, content if keys is None else keys.seal(content, host, text), text)
        try:
            opened.sync()
        except OSError:
            # If the file cannot be removed either, the request may be carried out although we report a
            # failure. That is allowed, as for a request that was sent and got no reply. To report
            # success is not: the next loss of power could break that promise.
            with contextlib.suppress(OSError):
                opened.unlink(text)
            raise


def require_room(settings: Settings, size: int, host: str) -> None:
    """Raises OSError unless the host may have one more file, of `size` bytes."""
    directory = settings.delayed_directory
    texts = [text for text in _list(directory) if host_of(text) == host]
    if len(texts) >= settings.max_delayed:
        raise OSError(errno.EDQUOT, describe_full(host, len(texts)))
    held = 0
    if texts:
        with Directory(directory) as opened:
            found = map(opened.stat, texts)
            held = sum(each.st_size for each in found if each is not None)
    if held + size > settings.max_delayed_bytes:
        raise OSError(
            errno.EDQUOT, f"delayed transactions for {host} have {held} bytes: `critical` saves no more"
        )


def describe_full(host: str, count: int) -> str:
    """The sentence about a host that has as many delayed transactions as it may have."""
    return f"{count} delayed transactions for {host} are the most: `critical` saves no more"


def unseal(settings: Settings, sealed: bytes, name: Name) -> bytes:
    """The content that was sealed in the file of that name.

    Raises ValueError if it was cut or altered, or its key is unknown; Misconfigured if the key file is
    not set or cannot be used.
    """
    if settings.delayed_key_file is None:
        file = settings.delayed_directory / name.text
        raise Misconfigured([Fault(file, None, "it is sealed, and loncDelayedKeyFile is not set")])
    return read_keys(settings.delayed_key_file).open(sealed, name.host, name.text)


def make_directory(directory: Path, mode: int = DIRECTORY_MODE) -> None:
    """Create the directory, unless it exists; its parent must exist. Raises OSError."""
    with Directory(directory.parent) as above:
        try:
            above.make_subdirectory(directory.name, mode)
        except FileExistsError as error:
            try:
                Directory(directory).close()
            except NotADirectoryError:
                raise error from None


def make_own_directory(directory: Path) -> None:
    """As the daemon: create the directory, or make its own one sticky if others may write there.

    Raises OSError.
    """
    make_directory(directory, OWN_DIRECTORY_MODE)
    with Directory(directory) as opened:
        found = opened.fstat()
        if found.st_uid != os.geteuid():
            return
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
            opened.set_mode(stat.S_IMODE(found.st_mode) | stat.S_ISVTX)
        with contextlib.suppress(FileNotFoundError), open_bad(opened, make=False):
            pass  # it has its owner and mode now


def open_bad(directory: Directory, make: bool = True) -> Directory:
    """`bad/` in `delayed/`, the daemon's own: it is made if it is missing, or else FileNotFoundError.

    What another user has put there is renamed. Raises OSError.
    """
    while True:
        try:
            bad = directory.subdirectory(BAD)
        except FileNotFoundError:
            if not make:
                raise
            directory.make_subdirectory(BAD, BAD_MODE)
            continue
        except NotADirectoryError:
            found = directory.stat(BAD)
            if found is not None and found.st_uid == os.geteuid():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), BAD) from None
        else:
            if _is_the_daemons(bad, directory):
                return bad
            bad.close()
        directory.rename(BAD, unguessable(BAD))


def _is_the_daemons(bad: Directory, directory: Directory) -> bool:
    """Whether nobody else owns it; closes to others what this user owns."""
    found = bad.fstat()
    if found.st_uid == os.geteuid() and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        bad.set_mode(BAD_MODE)
    owners = [0, os.geteuid()]
    if os.geteuid() == 0:  # at the work of the daemon's user
        owners.append(directory.fstat().st_uid)
    return found.st_uid in owners


def make_log(settings: Settings) -> None:
    """Create the permanent log with the group of `delayed/`, so that its group can write records.

    Without permission for that it does nothing: the first writer creates the log.
    """
    with contextlib.suppress(OSError):
        fd = _open_log(settings.perm_log)
        try:
            with Directory(settings.delayed_directory) as delayed:
                os.fchown(fd, -1, delayed.fstat().st_gid)
        finally:
            os.close(fd)


def record(settings: Settings, kind: str, host: str, request: bytes) -> None:
    """Append a line to the permanent log: what happened to `request`, which has no newline.

    `kind` is DELAYED, FAILED or SENT. If requests are sealed, and for each request that travels
    encrypted, only the command is recorded: the rest may contain a password. Raises OSError.
    """
    if settings.delayed_key_file is not None or _TRAVELS_ENCRYPTED.match(request):
        request = command_of(request)
    now = time.time()
    line = b"%d:%b:%b:%b:%b\n" % (
        now,
        kind.encode(),
        host.encode(),
        escaped_bytes(request),
        time.ctime(now).encode(),
    )
    fd = _open_log(settings.perm_log)
    try:
        if _lacks_newline(fd):
            line = b"\n" + line
        if os.write(fd, line) != len(line):  # one call: other processes append at the same time
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def command_of(request: bytes) -> bytes:
    """The part of a request that is not secret: `put`, `encrypt:auth`."""
    found = _COMMAND.match(request)
    return b"" if found is None else found[0]


def _command_in_name(request: bytes) -> str:
    """The word characters of the command; nothing from behind `encrypt:`."""
    found = _COMMAND_IN_NAME.match(request)
    command = b"" if found is None else found[0]
    return re.sub(rb"\W", b"", command[:COMMAND_LENGTH]).decode()


def move_to_bad(directory: Path, text: str, inode: int) -> None:
    """Move the file `text`, which can never be carried out, to `bad/`. Raises OSError.

    Nothing is moved if the file of that name is no longer the one with that inode. If `bad/` has a file
    of that name, a number is appended.
    """
    with Directory(directory) as opened, open_bad(opened) as bad:
        target = text
        for number in itertools.count(1):
            if bad.stat(target) is None:
                break
            target = f"{text}.{number}"
        found = opened.stat(text)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
        if found.st_ino == inode:
            opened.rename(text, target, bad)


def _list(directory: Path) -> list[str]:
    try:
        with Directory(directory) as opened:
            return opened.names()
    except FileNotFoundError:
        return []


def _create(directory: Directory, request: bytes, host: str) -> tuple[int, str, str]:
    """Create an empty file under a temporary name. Returns its descriptor, that name and its final name.

    No file has the final name, nor can one get it: the temporary name is the final one behind a dot, and
    every writer must create that first.
    """
    command = _command_in_name(request)
    while True:
        text = str(_next_name(directory.path, command, host))
        temporary = f".{text}"
        try:
            fd = directory.create(temporary, FILE_MODE)
        except FileExistsError:  # left by a killed process that had our pid
            continue
        if directory.stat(text) is None:
            return fd, temporary, text
        os.close(fd)
        directory.unlink(temporary)


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
    if name is None:
        return
    # A file without the mark is carried out too, a second later. The time may be out of range.
    with contextlib.suppress(OSError, OverflowError):
        os.utime(fd, ns=(name.time * 1_000_000_000,) * 2)


def _open_log(file: Path) -> int:
    with Directory(file.parent) as directory:
        return directory.open_to_append(file.name, LOG_MODE)


def _lacks_newline(log_fd: int) -> bool:
    """Whether a full disk has cut off the last record: it needs its newline before the next record."""
    try:
        fd = os.open(f"/proc/self/fd/{log_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        size = os.fstat(fd).st_size
        return size > 0 and os.pread(fd, 1, size - 1) != b"\n"
    except OSError:
        return False
    finally:
        os.close(fd)
