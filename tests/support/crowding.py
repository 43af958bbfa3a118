"""A user who takes all the connections that there are."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def crowd(path: Path, count: int, user: int, group: int, line: bytes = b"") -> Iterator[int]:
    """A process of that user and group, with `count` connections to the socket at `path`.

    It sends `line` on each, and reads nothing. Yields how many connections it got at once; it keeps
    trying for the rest.
    """
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(readable)
            os.setgroups([])
            os.setgid(group)
            os.setuid(user)
            _connect_all(path, count, line, writable)
        finally:
            os._exit(0)
    os.close(writable)
    try:
        with os.fdopen(readable) as said:
            yield int(said.readline())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _connect_all(path: Path, count: int, line: bytes, writable: int) -> None:
    clients = []
    for _ in range(count):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(path))
        with contextlib.suppress(OSError):  # it may be disconnected already
            client.sendall(line)
        clients.append(client)
    os.write(writable, b"%d\n" % len(clients))
    signal.pause()
