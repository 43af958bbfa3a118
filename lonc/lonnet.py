"""For programs that ask: one request to a host through the lonc of this machine.

from lonc import lonnet

lonnet.reply("ping", "msul1")      # b"msul1", or b"con_lost"
"""

from __future__ import annotations

import functools
import os
import socket
import time

from lonc.configuration import HOST_ID, Settings, find_configuration, read_settings
from lonc.hosts import read_hosts

# Longer than lonc itself takes to give up (5 s to connect, 60 in the queue, 300 for the reply, and 5
# more): a caller that gave up before would ask again for what may still be done.
TIMEOUT = 370.0
RESTART = 2.0  # seconds that a lonc may need to come back
PAUSE = 0.01  # seconds between two tries
RECEIVE_SIZE = 65536
LONGEST_WAIT = 1e6  # seconds; sockets take no more

CON_LOST = b"con_lost"
NO_SUCH_HOST = b"no_such_host"


def reply(
    request: str | bytes,
    host: str,
    *,
    timeout: float = TIMEOUT,
    settings: Settings | None = None,
) -> bytes:
    """lond's reply to `request`; `con_lost` if there is none, `no_such_host` if the table lacks `host`.

    Neither request nor reply has a newline; text goes out as UTF-8. `timeout` is in seconds, for all of
    it. `settings` say where the sockets are; unless given they are read from the usual place.

    What lonc cannot have taken is tried again: a full backlog until the timeout, a missing or deaf
    socket for RESTART seconds (a restart), a connection that broke before the whole line was sent. A
    request that was sent is never sent again.

    Raises ValueError for a request with a newline in it, Misconfigured without a configuration.
    """
    line = request.encode() if isinstance(request, str) else request
    if b"\n" in line:
        raise ValueError("a request is one line: it has no newline in it")
    if settings is None:
        settings = _usual_settings()
    if not HOST_ID.fullmatch(host):
        return NO_SUCH_HOST
    deadline = time.monotonic() + timeout
    try:
        while True:
            with _connect(settings, host, deadline) as connection:
                answer = _ask(connection, line + b"\n", deadline)
            if answer is not None:
                return answer
            time.sleep(PAUSE)
    except FileNotFoundError:
        return NO_SUCH_HOST
    except OSError:
        return CON_LOST


def _connect(settings: Settings, host: str, deadline: float) -> socket.socket:
    """Raises FileNotFoundError for a host that the table lacks, other OSErrors after all tries."""
    path = settings.socket_directory / host
    restarted = min(deadline, time.monotonic() + RESTART)
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_left(deadline))
            connection.connect(str(path))
            return connection
        except BlockingIOError:  # a full backlog
            connection.close()
            last = deadline
        except ConnectionRefusedError:
            connection.close()
            last = restarted
        except FileNotFoundError:
            connection.close()
            last = restarted
            if not _in_table(settings, host):
                raise
        except OSError:
            connection.close()
            raise
        if time.monotonic() >= last:
            raise TimeoutError
        time.sleep(PAUSE)


def _ask(connection: socket.socket, line: bytes, deadline: float) -> bytes | None:
    """The reply without its newline; None if the line was not taken and may be sent again."""
    taken = True
    try:
        connection.settimeout(_left(deadline))
        connection.sendall(line)
    except (BrokenPipeError, ConnectionResetError):
        taken = False  # but lonc may have said why
    received = bytearray()
    try:
        while not received.endswith(b"\n"):
            connection.settimeout(_left(deadline))
            data = connection.recv(RECEIVE_SIZE)
            if not data:
                raise ConnectionResetError("lonc closed the connection")
            received += data
    except ConnectionResetError:
        if taken:
            raise
        return None
    return bytes(received[:-1])


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(left, LONGEST_WAIT)


def _in_table(settings: Settings, host: str) -> bool:
    """Whether it is; a table with faults may well have it."""
    hosts, faults = read_hosts(settings.hosts_file, settings.socket_directory)
    return bool(faults) or any(each.id == host for each in hosts)


@functools.cache
def _usual_settings() -> Settings:
    """A fault elsewhere in the file, which does not disturb a running lonc, does not disturb us."""
    settings, _ = read_settings(find_configuration(None, os.environ))
    return settings
