"""Which other users could change a file, or put another in its place: by it, or a directory above it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Collection
from pathlib import Path

from lonc.runtime.directory import MAX_LINKS


def changeable_by_others(path: Path, trusted: Collection[int]) -> str | None:
    """A sentence about the first way in which a user who is not `trusted` can change `path`; or None.

    `trusted`: numbers of users. A directory in which all may write, but remove only their own (as /tmp),
    is no way if a trusted user owns what is below it. A file that is missing could be made by others. No
    group is trusted but root's, and one that has the name of a trusted user and no other member. Raises
    OSError.
    """
    parts = list(reversed(path.absolute().parts))
    above = Path(parts.pop())
    links = 0
    while parts:
        part = parts.pop()
        entry = above / part
        try:
            found = os.lstat(entry)
        except FileNotFoundError:
            return _directory(above, None, trusted)
        if (way := _directory(above, found, trusted)) is not None:
            return way
        if stat.S_ISLNK(found.st_mode):
            links += 1
            if links > MAX_LINKS:
                return f"{path} is a circle of links"
            target = Path(os.readlink(entry))
            parts.extend(reversed(target.parts))
        else:
            above = above.parent if part == ".." else entry
    return _itself(above, trusted)


def _directory(directory: Path, entry: os.stat_result | None, trusted: Collection[int]) -> str | None:
    found = os.lstat(directory)
    sticky = found.st_mode & stat.S_ISVTX and entry is not None and entry.st_uid in trusted
    return _itself(directory, trusted, stat.S_IFDIR if sticky else found.st_mode)


def _itself(path: Path, trusted: Collection[int], mode: int | None = None) -> str | None:
    found = os.lstat(path)
    mode = found.st_mode if mode is None else mode
    if found.st_uid not in trusted:
        return f"{user_name(found.st_uid)} owns {path}: chown -h root {path}"
    if mode & stat.S_IWOTH:
        return f"all users can write to {path}: chmod o-w {path}"
    if mode & stat.S_IWGRP and not _is_trusted(found.st_gid, trusted):
        return f"the group {group_name(found.st_gid)} can write to {path}: chmod g-w {path}"
    return None


def _is_trusted(gid: int, trusted: Collection[int]) -> bool:
    if gid == 0:
        return True
    try:
        group = grp.getgrgid(gid)
        owner = pwd.getpwnam(group.gr_name)
    except KeyError:
        return False
    return owner.pw_uid in trusted and owner.pw_gid == gid and set(group.gr_mem) <= {owner.pw_name}


def user_name(uid: int) -> str:
    """The name of a user, or the number if there is none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """The name of a group, or the number if there is none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
