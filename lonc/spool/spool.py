"""The directory of delayed transactions, and the permanent log of what became of them.

One file for each transaction, `TIME.COUNT.PID.COMMAND.HOSTID`, with the request in it and a newline, as
LON-CAPA has it. Programs write them, lonnet of LON-CAPA as well as ours, when a host cannot be
reached; that host's child carries them out, and removes them, when it can. Where there is a key file
ours are sealed, and neither name nor log tells more of a request than its command.
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
from lonc.runtime.atomic_file import appearing, sync_directory
from lonc.setting_types import HOST_ID
from lonc.spool.sealing import read_keys

BAD = "bad"  # below it lies what can never be carried out
DIRECTORY_MODE = 0o2770  # files belong to its group, whoever writes them
FILE_MODE = 0o660
COMMAND_LENGTH = 16  # bytes of the request, of which only word characters stand in the name

DELAYED, FAILED, SENT = "D", "F", "S"  # kinds of records

_NAME = re.compile(
    rf"([0-9]{{1,18}})\.([0-9]{{1,18}})\.([0-9]{{1,18}})\.(\w{{0,16}})\.({HOST_ID.pattern})", re.ASCII
)

# What some reader might take for the end of a line, or a terminal for an order: the controls of ASCII,
# and in UTF-8 those from U+0080 on and the separators of lines and paragraphs.
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")

_LOG_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC  # (it could be a FIFO by now)


@dataclass(frozen=True, order=True)
class Name:
    """The name of a file; names sort as the transactions came.

    `text` is how it is spelled, which may be with zeros in front of the numbers: another file, then.
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
        """None if no transaction can have that name."""
        match = _NAME.fullmatch(text)
        if match is None:
            return None
        when, count, pid, command, host = match.groups()
        return cls(int(when), int(count), int(pid), command, host, text)

    def __str__(self) -> str:
        return self.text


class Listing(NamedTuple):
    """What is in the directory, each sorted."""

    waiting: list[Name]  # in the order in which it came
    impossible: list[str]  # names that no transaction can have
    unfinished: list[str]  # what `save` is writing, and what is left by a writer that was killed


def listing(directory: Path) -> Listing:
    """One look. A directory that is not there is empty. Raises OSError."""
    found = Listing([], [], [])
    for text in _listed(directory):
        if text.startswith("."):  # a writer's own
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
    """What waits there, and all names that are impossible. Raises OSError."""
    return listing(directory)[:2]


def newest(directory: Path, host: str) -> tuple[int, int] | None:
    """Time and count of what came last of all that waits for `host`; None if nothing does.

    Raises OSError.
    """
    matches = (_NAME.fullmatch(text) for text in _listed(directory) if text.endswith(f".{host}"))
    return max(((int(match[1]), int(match[2])) for match in matches if match), default=None)


def save(settings: Settings, request: bytes, host: str) -> None:
    """Put `request`, without its newline, behind all that waits for `host`.

    When this returns, it is on the disk, and will be carried out. Raises OSError, and Misconfigured if
    it is to be sealed and cannot be; then it is not there.
    """
    directory = settings.delayed_directory
    keys = None if settings.delayed_key_file is None else read_keys(settings.delayed_key_file)
    make_directory(directory)
    fd, own, path = _begin(directory, request if keys is None else command_of(request), host)
    with appearing(fd, own, path):  # replaces nothing: see _begin
        content = request + b"\n"
        write(fd, content if keys is None else keys.seal(content, host, path.name))
    try:
        sync_directory(directory)
    except OSError:
        # On a disk that does not even let us take it back, it may be carried out although we say that
        # it failed: so may anything that was sent and got no reply. To say that it is saved would be a
        # promise that the next loss of power breaks.
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def unseal(settings: Settings, sealed: bytes, name: Name) -> bytes:
    """What was sealed in the file of that name.

    Raises ValueError if it was cut or altered, or the key is unknown; Misconfigured if we have no keys.
    """
    if settings.delayed_key_file is None:
        file = settings.delayed_directory / name.text
        raise Misconfigured([Fault(file, None, "it is sealed, and loncDelayedKeyFile is not set")])
    return read_keys(settings.delayed_key_file).open(sealed, name.host, name.text)


def make_directory(directory: Path) -> None:
    """Make it where its parent is, unless it is there. Raises OSError."""
    try:
        os.mkdir(directory)
    except OSError:
        if os.path.isdir(directory):
            return
        raise
    try:
        _give_mode(directory)
        sync_directory(directory.parent)
    except OSError:
        with contextlib.suppress(OSError):
            os.rmdir(directory)
        raise


def _give_mode(made: Path) -> None:
    """Whatever the umask; and to nothing that somebody else has put in its place meanwhile."""
    fd = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid == os.geteuid():
            os.fchmod(fd, DIRECTORY_MODE)
    finally:
        os.close(fd)


def make_log(settings: Settings) -> None:
    """Make the permanent log, as far as we may, for whoever may save, whoever records first."""
    with contextlib.suppress(OSError):
        fd = _open_log(settings.perm_log)
        try:
            os.fchown(fd, -1, os.stat(settings.delayed_directory).st_gid)
        finally:
            os.close(fd)


def record(settings: Settings, kind: str, host: str, request: bytes) -> None:
    """One line in the permanent log: what became of `request`, which comes without its newline.

    Of one that travels encrypted, and of all where they are sealed, only the command is recorded:
    passwords are among the rest. Raises OSError.
    """
    if settings.delayed_key_file is not None or request.startswith(b"encrypt:"):
        request = command_of(request)
    said = _CONTROL.sub(lambda match: b"".join(rb"\x%02x" % byte for byte in match[0]), request)
    now = time.time()
    line = b"%d:%b:%b:%b:%b\n" % (now, kind.encode(), host.encode(), said, time.ctime(now).encode())
    fd = _open_log(settings.perm_log)
    try:
        if _cut_off(settings.perm_log):
            line = b"\n" + line
        if os.write(fd, line) != len(line):  # in one piece: others write, too
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(fd)


def command_of(request: bytes) -> bytes:
    """What of a request is no secret: `put`, `encrypt:auth`."""
    return b":".join(request.split(b":")[: 2 if request.startswith(b"encrypt:") else 1])


def move_to_bad(directory: Path, text: str) -> None:
    """Move what can never be carried out into `bad`. Raises OSError."""
    bad = directory / BAD
    make_directory(bad)
    place = bad / text
    for number in itertools.count(1):
        if not os.path.lexists(place):
            break
        place = bad / f"{text}.{number}"
    os.rename(directory / text, place)


def _listed(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _begin(directory: Path, request: bytes, host: str) -> tuple[int, Path, Path]:
    """A new file under a name of our own, and where it is to go: there nothing is, nor will be.

    Our own name is the other with a dot in front, and whoever wants that place must have it first.
    """
    command = re.sub(rb"\W", b"", request[:COMMAND_LENGTH]).decode()
    while True:
        path = directory / str(_next_name(directory, command, host))
        own = path.with_name(f".{path.name}")
        try:
            fd = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        except FileExistsError:  # left by a process of our pid, which was killed
            continue
        if not os.path.lexists(path):
            return fd, own, path
        os.close(fd)
        os.unlink(own)


# By directory and host. No name is given twice, even if the clock was set back and what had the name is
# gone: two files of one name, one after the other, would be one to whoever looks now and then.
_last_given: dict[tuple[Path, str], tuple[int, int]] = {}
_giving = threading.RLock()  # (a signal handler may save, too)
os.register_at_fork(
    before=_giving.acquire, after_in_parent=_giving.release, after_in_child=_giving.release
)


def _next_name(directory: Path, command: str, host: str) -> Name:
    """Behind all that waits for `host`, even if the clock was set back."""
    with _giving:
        given = _last_given.get((directory, host), (-1, -1))
        last, last_count = max(newest(directory, host) or given, given)
        now = int(time.time())
        when, count = (now, 0) if now > last else (last, last_count + 1)
        name = Name(when, count, os.getpid(), command, host)
        if Name.parse(str(name)) is None:  # the last one has the highest number that there is
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW), str(directory / str(name)))
        _last_given[directory, host] = when, count
    return name


def write(fd: int, content: bytes) -> None:
    """All of it, on the disk, and what is read there is what was written. Raises OSError."""
    os.fchmod(fd, FILE_MODE)  # whatever the umask
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(fd, rest) :]
    os.fsync(fd)
    if os.pread(fd, len(content) + 1, 0) != content:
        raise OSError(errno.EIO, "what is read is not what was written")


def _open_log(file: Path) -> int:
    try:
        return _follow(file)
    except FileNotFoundError:
        pass
    try:
        fd = os.open(file, _LOG_FLAGS | os.O_CREAT | os.O_EXCL, FILE_MODE)
    except FileExistsError:  # somebody else was first
        return _follow(file)
    with contextlib.suppress(OSError):
        os.fchmod(fd, FILE_MODE)  # whatever the umask
    return fd


def _follow(file: Path) -> int:
    """Through a link only if that is root's or our own: as root we would write wherever the daemon's
    user, who may write beside it, wants."""
    try:
        return os.open(file, _LOG_FLAGS | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP or os.lstat(file).st_uid not in (0, os.geteuid()):
            raise
    return os.open(file, _LOG_FLAGS)


def _cut_off(file: Path) -> bool:
    """Whether the last record is, by a full disk: the next one would be taken for its end."""
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
