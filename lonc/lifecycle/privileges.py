"""The user and group that a daemon started as root becomes, and what they lack permission for.

The daemon becomes them for good before it opens or binds anything. In directories that the user can
write root would follow links that the user has made, so root only makes missing directories, and gives
the user what an earlier daemon left when it ran as root.
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
from lonc.runtime.directory import Directory
from lonc.runtime.process import fork
from lonc.runtime.trust import changeable_by_others, group_name, user_name
from lonc.sources import Load, Sources
from lonc.spool.spool import BAD


@dataclass(frozen=True)
class Identity:
    """A user and a group, and no supplementary groups. `why`: what names that user."""

    user: str
    group: str
    uid: int
    gid: int
    why: str = "loncUser"

    def __str__(self) -> str:
        return f"{self.user} ({self.why})"


def identity(settings: Settings) -> Identity | None:
    """The user and group to become, by `loncUser` and `loncGroup`; None if there are none.

    Without `loncUser`, root becomes the owner of lonSockDir, as LON-CAPA's daemons run as www.

    Raises CannotStart if one of them does not exist.
    """
    if settings.user is None:
        return _owner(settings.socket_directory) if os.geteuid() == 0 else None
    try:
        user = pwd.getpwnam(settings.user)
        group = grp.getgrgid(user.pw_gid) if settings.group is None else grp.getgrnam(settings.group)
    except KeyError as error:
        raise CannotStart(f"no such user or group (loncUser, loncGroup): {error.args[0]}") from error
    return Identity(user.pw_name, group.gr_name, user.pw_uid, group.gr_gid)


def _owner(directory: Path) -> Identity | None:
    """The owner of `directory`; None if that is root, or there is no directory."""
    try:
        found = directory.stat()
    except OSError:
        return None
    return owner_of(found, directory)


def owner_of(found: os.stat_result, directory: Path) -> Identity | None:
    """The owner of `directory`, whose status is `found`; None if that is root."""
    if found.st_uid == 0:
        return None
    why = f"the owner of {directory}"
    try:
        user = pwd.getpwuid(found.st_uid)
    except KeyError:  # a number without a name
        return Identity(str(found.st_uid), group_name(found.st_gid), found.st_uid, found.st_gid, why)
    return Identity(user.pw_name, group_name(user.pw_gid), user.pw_uid, user.pw_gid, why)


def become(who: Identity) -> None:
    """Become `who`, irrevocably. Raises CannotStart if that fails, or could be undone.

    (It clears PR_SET_PDEATHSIG. Children set that after they are forked, so later.)
    """
    if not _has_become(who):
        if os.geteuid() != 0:
            raise CannotStart(f"only root can become {who.user}:{who.group} (loncUser, loncGroup)")
        try:
            os.setgroups([])
            os.setresgid(who.gid, who.gid, who.gid)
            os.setresuid(who.uid, who.uid, who.uid)
        except OSError as error:
            raise CannotStart(f"cannot become {who}: {error.strerror}") from error
        if os.getgroups() or not _has_become(who):
            raise CannotStart(f"did not become {who}")
    with contextlib.suppress(PermissionError):
        os.setresuid(0, 0, 0)
        raise CannotStart(f"{who} can become root again")


def _has_become(who: Identity) -> bool:
    return os.getresuid() == (who.uid,) * 3 and os.getresgid() == (who.gid,) * 3


def answered_as(who: Identity | None, ask: Callable[[], Iterable[str]]) -> list[str]:
    """The sentences that `ask` returns when it runs as `who`, in a process of its own.

    If `who` is None it runs in this process. If no process can become `who`, or `ask` fails, a sentence
    about that is returned.
    """
    if who is None:
        return list(ask())
    ours, theirs = os.pipe()
    pid = fork(partial(_answer_as, who, ask, theirs))
    os.close(theirs)
    with open(ours, "rb") as answer:
        said = answer.read()
    os.waitpid(pid, 0)
    return list(json.loads(said)) if said else [f"cannot tell what {who} may do"]


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
    """Raises CannotStart if everybody can write to `path`; `name`: its setting."""
    if permissions_of_others(path) & stat.S_IWOTH:
        raise CannotStart(f"everybody can write to {path} ({name}): chmod o-w {path}")


def permissions_of_others(path: Path) -> int:
    """The bits of the mode of `path` that are for all users; 0 if it does not exist."""
    try:
        return path.stat().st_mode & stat.S_IRWXO
    except OSError:
        return 0


def untrusted_files(sources: Sources, who: Identity | None) -> Iterator[str]:
    """A sentence for each file that root or `who` would believe, and that another user could change.

    The configuration names the user that root becomes, and the directories that root makes for it, so
    that user must not write there either. Root trusts nobody but itself, another user itself and root.
    """
    us = {0, os.geteuid()}
    daemon = us if who is None else us | {who.uid}
    settings = sources.settings
    files = {state.path: us for state in sources.configuration.files}
    needed = settings.needed_certificates
    lists = [] if needed is None or needed.revocation_list is None else [needed.revocation_list]
    for path in [*settings.table_files, *settings.secrets, *lists]:
        files.setdefault(path, daemon)
    for path, trusted in files.items():
        with contextlib.suppress(OSError):  # it cannot be read either
            if (way := changeable_by_others(path, trusted)) is not None:
                yield f"{path} can be changed by others: {way}"


def own_files(settings: Settings) -> list[Path]:
    """Files that a daemon or a client library has made, and that root owns if they ran as root."""
    delayed = settings.delayed_directory
    locks = [settings.lock_file, settings.socket_lock, settings.spool_lock]
    return [settings.log_file, settings.perm_log, *locks, delayed, delayed / BAD]


def hand_over(path: Path, who: Identity, group: bool = False) -> None:
    """Give `path` to `who`, and its group if `group`; only a file or directory that root owns.

    A file with several names is left alone, and no link is followed, also on the way to it: the owner of
    a directory could have made them. Nothing is given away in a directory of a third user. Raises
    OSError.
    """
    with Directory(path.parent) as directory:
        fd = directory.open_path(path.name)
        try:
            if _may_hand_over(directory, os.fstat(fd), who):
                os.chown(f"/proc/self/fd/{fd}", who.uid, who.gid if group else -1)
        finally:
            os.close(fd)


def would_hand_over(path: Path, who: Identity) -> bool:
    """Whether `hand_over` would change its owner."""
    with contextlib.suppress(OSError), Directory(path.parent) as directory:
        found = directory.stat(path.name)
        return found is not None and _may_hand_over(directory, found, who)
    return False


def _may_hand_over(directory: Directory, found: os.stat_result, who: Identity) -> bool:
    if directory.fstat().st_uid not in (0, who.uid):
        return False
    one_name = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
    return one_name and found.st_uid == 0


def missing_permissions(
    who: Identity, settings: Settings, files: Iterable[Path], load: Load
) -> Iterator[str]:
    """Run as `who`. Yields one sentence per missing permission, perhaps some of them twice.

    The daemon must read configuration and table, by `load`, certificates and keys; it must write in its
    directories and `files`.
    """
    try:
        load().require_startable()
    except Misconfigured as error:
        for fault in error.faults:
            how = _how_to_read(who, fault.file)
            yield _closed_directory_above(who, fault.file) or (
                str(fault)
                if os.access(fault.file, os.R_OK)
                else f"{who} cannot read {fault.file}, as a reload has to: {how}"
            )
    for path in settings.secrets:
        if (closed := _closed_directory_above(who, path)) is not None:
            yield closed
        elif os.path.exists(path) and not os.access(path, os.R_OK):
            yield f"{who} cannot read {path}: {_how_to_read(who, path)}"
    for path in [settings.socket_directory, settings.log_directory, *files]:
        if path in _replaced_by_the_daemon(settings) and _is_of_a_third_user(path, who):
            continue
        if (closed := _closed_directory_above(who, path)) is not None:
            yield closed
        elif os.path.exists(path) and not os.access(path, _needed_access(path)):
            yield f"{who} cannot write {path}: {_how_to_write(who, path)}"
    yield from _unreadable_saved_files(who, settings)


def _replaced_by_the_daemon(settings: Settings) -> list[Path]:
    """What another user may have put in place of the daemon's own: the daemon renames that."""
    return [settings.delayed_directory / BAD, settings.spool_lock]


def _is_of_a_third_user(path: Path, who: Identity) -> bool:
    with contextlib.suppress(OSError):
        return path.lstat().st_uid not in (0, who.uid)
    return False


def _needed_access(path: Path) -> int:
    return os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)


def _how_to_read(who: Identity, path: Path) -> str:
    return f"chgrp -h {who.group} {path} && chmod g+r {path}"


def _how_to_write(who: Identity, path: Path) -> str:
    if path.is_symlink():  # perhaps made to have root change its target: a person must look at it
        return f"it is a link to {os.readlink(path)}"
    owner = path.stat().st_uid
    if owner == who.uid:
        return f"chmod u+rwX {path}"
    if owner != 0 and path.is_dir() and _holds_files_of(owner, path):
        theirs = user_name(owner)
        return f"{theirs} keeps other files there, so run lonc as {theirs} (loncUser {theirs})"
    return f"chown -h {who.user} {path}"


def _holds_files_of(uid: int, directory: Path) -> bool:
    with os.scandir(directory) as entries:
        return any(entry.stat(follow_symlinks=False).st_uid == uid for entry in entries)


def _closed_directory_above(who: Identity, path: Path) -> str | None:
    """A sentence about the first directory above `path` that this user cannot enter; None if it can."""
    for above in reversed(path.parents):
        if os.path.exists(above) and not os.access(above, os.X_OK):
            return f"{who} cannot enter {above}: chmod o+x {above}"
    return None


def _unreadable_saved_files(who: Identity, settings: Settings) -> Iterator[str]:
    """Delayed transactions belong to the user that saved them, and inherit the directory's group."""
    for directory in (settings.delayed_directory, settings.socket_directory):
        with contextlib.suppress(OSError):
            found = directory.stat()
            if found.st_mode & stat.S_ISGID and found.st_gid != who.gid:
                theirs = group_name(found.st_gid)
                how = f"set loncGroup {theirs}, or chgrp -hR {who.group} {directory}"
                yield f"{who.group} (loncGroup) cannot read what others save in {directory}: {how}"
                return
