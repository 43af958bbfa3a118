"""How many clients one user may have at a host's socket, where the setting leaves it open."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from dataclasses import replace

from lonc.configuration import Settings
from lonc.runtime.directory import Directory


def with_user_limit(settings: Settings) -> Settings:
    """`settings` with a value of loncMaxClientsPerUser.

    By default it is half of loncMaxClients if several users can write to the sockets, else all of them.
    It is found once for each Settings that were read, not for each child.
    """
    global _last
    if settings.max_clients_per_user is not None:
        return settings
    if _last is None or _last[0] is not settings:
        several = settings.socket_mode & stat.S_IWGRP and _has_several_users(_socket_group(settings))
        limit = max(1, settings.max_clients // 2) if several else settings.max_clients
        _last = settings, replace(settings, max_clients_per_user=limit)
    return _last[1]


# The last Settings, and those with the limit.
_last: tuple[Settings, Settings] | None = None


def _socket_group(settings: Settings) -> int:
    """The group that sockets get: the directory's if that is set-group-ID, else ours."""
    try:
        with Directory(settings.socket_directory) as directory:
            found = directory.fstat()
    except OSError:
        return os.getegid()
    return found.st_gid if found.st_mode & stat.S_ISGID else os.getegid()


def _has_several_users(gid: int) -> bool:
    """Root does not count: it can connect anyway."""
    users = {each.pw_uid for each in pwd.getpwall() if each.pw_gid == gid}
    try:
        members = grp.getgrgid(gid).gr_mem
    except KeyError:
        members = []
    for name in members:
        try:
            users.add(pwd.getpwnam(name).pw_uid)
        except KeyError:  # a member that has left the machine
            continue
    return len(users - {0}) > 1
