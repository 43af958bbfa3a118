"""The directory of delayed transactions, and the permanent log of what became of them.

One file for each transaction, `TIME.COUNT.PID.COMMAND.HOSTID`: a line, the request. Programs write them
when a host does not answer, lonnet of LON-CAPA as well as ours; a child carries them out when it does.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from lonc.configuration import HOST_ID, Settings

BAD = "bad"  # the directory for what can never be carried out
DIRECTORY_MODE = 0o2770
FILE_MODE = 0o660
COMMAND_LENGTH = 16  # characters of the request, of which only word characters stay in the name

DELAYED, FAILED, SENT = "D", "F", "S"  # kinds of record in the permanent log

_NAME = re.compile(
    rf"([0-9]{{1,18}})\.([0-9]{{1,18}})\.([0-9]{{1,18}})\.(\w{{0,16}})\.({HOST_ID.pattern})", re.A
)
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_one_at_a_time = threading.Lock()
_serial = itertools.count()


@dataclass(frozen=True, order=True)
class Name:
    """The name of a file; names sort as the transactions came, by time, then by count."""

    time: int  # UNIX time
    count: int
    pid: int
    command: str
    host: str
    text: str = field(compare=False)

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """None if it is no name of a delayed transaction."""
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        when, count, pid, command, host = match.groups()
        return cls(int(when), int(count), int(pid), command, host, text)

    def __str__(self) -> str:
        return self.text


def waiting(directory: Path) -> tuple[list[Name], list[str]]:
    """What waits there, in the order to be carried out, and what has an impossible name.

    Raises OSError; a directory that is not there is empty.
    """
    try:
        texts = os.listdir(directory)
    except FileNotFoundError:
        return [], []
    names = []
    impossible = []
    for text in texts:
        if text.startswith(".") or text == BAD:
            continue  # a writer's own, or ours
        name = Name.parse(text)
        if name is None:
            impossible.append(text)
        else:
            names.append(name)
    return sorted(names), impossible


def save(settings: Settings, request: bytes, host: str) -> None:
    """Put `request`, without its newline, behind all that waits for `host`.

    When this returns it is on the disk. Raises OSError; then it is not there, as far as the disk lets us
    take it back.
    """
    directory = settings.delayed_directory
    with _one_at_a_time:
        make_directory(directory)
        own = directory / f".{os.getpid()}.{next(_serial)}.{host}"
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _write(own, request + b"\n")
            place = _free_place(directory, request, host)
            os.rename(own, place)
            own = place
            os.fsync(fd)
        except BaseException:
            # If the disk does not even let us remove it, it may be carried out though we say that it
            # failed; the other way round would be a promise broken.
            with contextlib.suppress(OSError):
                os.unlink(own)
            raise
        finally:
            os.close(fd)


def make_directory(directory: Path) -> None:
    """Make it where its parent is. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir()
        directory.chmod(DIRECTORY_MODE)  # whatever the umask


def _write(path: Path, content: bytes) -> None:
    """A new file with `content`, on the disk. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        os.fchmod(fd, FILE_MODE)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
        if os.pread(fd, len(content) + 1, 0) != content:
            raise OSError(f"{path} does not hold what was written")
    finally:
        os.close(fd)


def _free_place(directory: Path, request: bytes, host: str) -> Path:
    """Behind whatever waits for that host, though the clock may have been set back."""
    when, count = int(time.time()), 0
    others = [name for name in waiting(directory)[0] if name.host == host]
    if others and (others[-1].time, others[-1].count) >= (when, count):
        when, count = others[-1].time, others[-1].count + 1
    command = re.sub(r"\W", "", request[:COMMAND_LENGTH].decode("ascii", "replace"), flags=re.A)
    return directory / f"{when}.{count}.{os.getpid()}.{command}.{host}"


def record(settings: Settings, kind: str, host: str, request: bytes) -> None:
    """Write into the permanent log what became of `request`. Raises OSError.

    A request that travels encrypted may hold a password: only its command is recorded.
    """
    if request.startswith(b"encrypt:"):
        request = b":".join(request.split(b":")[:2])
    told = _CONTROL.sub(lambda match: rb"\x%02x" % match[0][0], request)
    now = time.time()
    line = b"%d:%b:%b:%b:%b\n" % (now, kind.encode(), host.encode(), told, time.ctime(now).encode())
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(settings.perm_log, flags, FILE_MODE)
    try:
        if os.fstat(fd).st_size == 0:
            with contextlib.suppress(OSError):  # another's, who has just made it
                os.fchmod(fd, FILE_MODE)
        os.write(fd, line)
    finally:
        os.close(fd)


def put_aside(directory: Path, text: str) -> None:
    """Move what can never be carried out into `bad`. Raises OSError."""
    bad = directory / BAD
    make_directory(bad)
    place = bad / text
    for number in itertools.count(1):
        if not os.path.lexists(place):
            break
        place = bad / f"{text}.{number}"
    os.rename(directory / text, place)
