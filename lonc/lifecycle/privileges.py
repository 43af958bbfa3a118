"""Who the daemon is: the user and group that it becomes where it is started as root.

It becomes them before it opens or binds anything, for good, and is then whoever may write in its
directories: root itself would follow what somebody else has put there. So all that root does is to make
directories where they are missing, and to hand over what an earlier daemon left when it was root.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lonc.configuration import Settings
from lonc.errors import CannotStart, Misconfigured
from lonc.runtime.process import fork
from lonc.spool.spool import BAD


@dataclass(frozen=True)
class Identity:
    """A user and a group, and no supplementary groups."""

    user: str
    group: str
    uid: int
    gid: int


def identity(settings: Settings) -> Identity | None:
    """Whom the daemon is to become; None if it stays who it is. Raises CannotStart."""
    if settings.user is None:
        return None
    try:
        user = pwd.getpwnam(settings.user)
        group = grp.getgrgid(user.pw_gid) if settings.group is None else grp.getgrnam(settings.group)
    except KeyError as error:
        raise CannotStart(f"who is {settings.user} (loncUser, loncGroup)? {error.args[0]}") from error
    return Identity(user.pw_name, group.gr_name, user.pw_uid, group.gr_gid)


def become(who: Identity) -> None:
    """Be `who`, without a way back. Raises CannotStart if that cannot be.

    (PR_SET_PDEATHSIG is lost by it: children ask for that only after they were forked.)
    """
    if not _is(who):
        if os.geteuid() != 0:
            raise CannotStart(f"only root can become {who.user}:{who.group} (loncUser, loncGroup)")
        try:
            os.setgroups([])
            os.setresgid(who.gid, who.gid, who.gid)
            os.setresuid(who.uid, who.uid, who.uid)
        except OSError as error:
            raise CannotStart(f"cannot become {who.user} (loncUser): {error.strerror}") from error
        if os.getgroups() or not _is(who):
            raise CannotStart(f"did not become {who.user} (loncUser)")
    with contextlib.suppress(PermissionError):
        os.setresuid(0, 0, 0)
        raise CannotStart(f"{who.user} (loncUser) can become root again")


def _is(who: Identity) -> bool:
    return os.getresuid() == (who.uid,) * 3 and os.getresgid() == (who.gid,) * 3


def answered_as(who: Identity | None, ask: Callable[[], Iterable[str]]) -> list[str]:
    """What `ask` has to say as `who`, in a process of its own; here, where nobody is to be become.

    It is also said if nobody can.
    """
    if who is None:
        return list(ask())
    ours, theirs = os.pipe()
    pid = fork(partial(_answer_as, who, ask, theirs))
    os.close(theirs)
    with open(ours, "rb") as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return list(json.loads(said)) if said else [f"cannot tell what {who.user} (loncUser) may do"]


def _answer_as(who: Identity, ask: Callable[[], Iterable[str]], answer_fd: int) -> int:
    try:
        become(who)
        said = list(ask())
    except CannotStart as error:
        said = [str(error)]
    with open(answer_fd, "wb") as answer:
        answer.write(json.dumps(said).encode())
    return 0


def require_closed(path: Path, name: str) -> None:
    """Raises CannotStart if others than owner and group may do anything with `path`, if it is there."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if mode & stat.S_IRWXO:
        raise CannotStart(f"{path} ({name}) is open to everybody: chmod o-rwx {path}")


def own_files(settings: Settings) -> list[Path]:
    """What only a daemon, or a program beside it, has made, and what may be root's if they were."""
    delayed = settings.delayed_directory
    return [settings.log_file, settings.pid_file, settings.perm_log, delayed, delayed / BAD]


def hand_over(path: Path, who: Identity, group: bool = False) -> None:
    """Give `path` to `who`, if it is root's file or directory; nothing else, and through no link.

    Raises OSError.
    """
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if _is_roots(os.fstat(fd)):
            os.chown(f"/proc/self/fd/{fd}", who.uid, who.gid if group else -1)
    finally:
        os.close(fd)


def is_roots(path: Path) -> bool:
    """Whether `hand_over` would give it."""
    try:
        return _is_roots(path.lstat())
    except OSError:
        return False


def _is_roots(found: os.stat_result) -> bool:
    whole = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
    return whole and found.st_uid == 0


def missing(
    who: Identity, settings: Settings, files: Iterable[Path], load: Callable[[], object]
) -> Iterator[str]:
    """As `who`: a sentence for each thing that we cannot do and will have to.

    That is to read configuration and table by `load`, certificates and keys, and to write in our
    directories and in `files`. The same may be said several times.
    """
    try:
        load()
    except Misconfigured as error:
        for fault in error.faults:
            how = _how_to_read(who, fault.file)
            yield _not_entered(who, fault.file) or (
                str(fault)
                if os.access(fault.file, os.R_OK)
                else f"{who.user} (loncUser) cannot read {fault.file}, as a reload has to: {how}"
            )
    for path in settings.secrets:
        if (closed := _not_entered(who, path)) is not None:
            yield closed
        elif os.path.exists(path) and not os.access(path, os.R_OK):
            yield f"{who.user} (loncUser) cannot read {path}: {_how_to_read(who, path)}"
    for path in [settings.socket_directory, settings.log_directory, *files]:
        if (closed := _not_entered(who, path)) is not None:
            yield closed
        elif os.path.exists(path) and not os.access(path, _in(path)):
            yield f"{who.user} (loncUser) cannot write {path}: {_how_to_write(who, path)}"
    yield from _not_read(who, settings)


def _in(path: Path) -> int:
    return os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)


def _how_to_read(who: Identity, path: Path) -> str:
    return f"chgrp {who.group} {path} && chmod g+r {path}"


def _how_to_write(who: Identity, path: Path) -> str:
    if path.is_symlink():  # perhaps somebody's trap: nothing there is to be changed unseen
        return f"it is a link to {os.readlink(path)}"
    mine = path.stat().st_uid == who.uid
    return f"chmod u+rwX {path}" if mine else f"chown {who.user} {path}"


def _not_entered(who: Identity, path: Path) -> str | None:
    """The first of the directories above `path` that is closed to us."""
    for above in reversed(path.parents):
        if os.path.exists(above) and not os.access(above, os.X_OK):
            return f"{who.user} (loncUser) cannot enter {above}: chmod o+x {above}"
    return None


def _not_read(who: Identity, settings: Settings) -> Iterator[str]:
    """What others save in `delayed/` is theirs, and the group's that the directory hands on."""
    for directory in (settings.delayed_directory, settings.socket_directory):
        with contextlib.suppress(OSError):
            found = directory.stat()
            if found.st_mode & stat.S_ISGID and found.st_gid != who.gid:
                theirs = _group_name(found.st_gid)
                how = f"set loncGroup {theirs}, or chgrp -R {who.group} {directory}"
                yield f"{who.group} (loncGroup) cannot read what others save in {directory}: {how}"
                return


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
