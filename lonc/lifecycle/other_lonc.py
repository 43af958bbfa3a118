"""Another lonc that serves this machine and holds none of our locks, as the original in Perl.

Two would answer the same clients: the one whose sockets have the names.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lonc.configuration import Settings
from lonc.escape import escaped
from lonc.hosts import Host
from lonc.lifecycle.instance import read_pid_file
from lonc.runtime.socket_file import CHILDREN_END_WITHIN, listening_pid

SAME_MOMENT = 2.0  # seconds; a program writes its pid file that soon after its start, or later
MAX_TITLE = 80  # characters


def other_lonc(settings: Settings, hosts: Iterable[Host]) -> str | None:
    """A sentence about the process that serves instead of us; None if there is none.

    Not to be called while a lonc of ours runs.
    """
    pid = _live_pid(settings.pid_file)
    if pid is not None:
        return f"{_process(pid)} runs, and {settings.pid_file} names it"
    paths = [settings.socket_directory / host.name for host in hosts]
    if settings.create_socket is not None:
        paths.append(settings.create_socket)
    for path in paths:
        pid = listening_pid(path, patience=CHILDREN_END_WITHIN)
        if pid is not None:
            # The process that made the socket may have ended, and left it to its children.
            if not os.path.exists(f"/proc/{pid}"):
                pid = next(_processes_with(path), 0)
            return f"{_process(pid)} accepts clients at {path}"
    return None


def _processes_with(path: Path) -> Iterator[int]:
    """The processes that have the listening socket `path` open, as far as this user can see."""
    sockets = set()
    for line in Path("/proc/net/unix").read_bytes().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if fields[7:] == [os.fsencode(path)]:
            sockets.add(f"socket:[{int(fields[6])}]")
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                if any(os.readlink(fd) in sockets for fd in (process / "fd").iterdir()):
                    yield int(process.name)


def _live_pid(pid_file: Path) -> int | None:
    """The pid in `pid_file`, if it is still the process that wrote it.

    A process that has begun since the file was written only happens to have the pid, as after a boot.
    """
    try:
        pid = int(read_pid_file(pid_file))
        written = pid_file.stat().st_mtime
        began = _time_of_start(pid)
    except (OSError, ValueError):
        return None
    return pid if began <= written + SAME_MOMENT else None


def _time_of_start(pid: int) -> float:
    """UNIX time at which a process began, by proc(5). Raises OSError if it has ended."""
    # The name of the program is in parentheses, and may contain spaces and parentheses.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    if fields[0] in "XZ":
        raise ProcessLookupError
    ticks_since_boot = int(fields[19])
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + ticks_since_boot / os.sysconf("SC_CLK_TCK")


def _process(pid: int) -> str:
    if pid == 0:
        return "a process"
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        words = ""
    return f"process {pid} ({escaped(words.strip()[:MAX_TITLE])})"
