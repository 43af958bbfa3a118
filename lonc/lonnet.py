"""The public library: sends requests to hosts through the lonc of this machine.

    from lonc import lonnet

    lonnet.reply("ping", "msul1")                # b"msul1", or b"con_lost"
    lonnet.critical("put:msu:x:y:z=1", "msul1")  # lond's reply, or b"con_delayed"

    with lonnet.Lonc() as lonc:                  # for many requests: keeps its connections
        lonc.reply("ping", "msul1")

- `reply`, `critical`: send one request.
- `Lonc`: sends many requests over kept connections.
- `CON_LOST`, `CON_DELAYED`, `CON_FAILED`, `NO_SUCH_HOST`, `TOO_LONG`: the replies that come from lonc.
- `Settings`, `read_settings`: for programs that name their configuration themselves.
- `Misconfigured`: raised if the configuration cannot be read.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from lonc.configuration import Settings
from lonc.configuration_file import find_configuration, read_settings
from lonc.errors import Misconfigured
from lonc.hosts import read_tables
from lonc.replies import CON_DELAYED, CON_FAILED, CON_LOST, NO_SUCH_HOST, TOO_LONG
from lonc.runtime.line_buffer import RECEIVE_SIZE
from lonc.setting_types import DELAYED_DIRECTORY, HOST_ID
from lonc.source_file import FileState, has_changed
from lonc.spool import spool
from lonc.spool.order import must_wait

__all__ = [
    "CON_DELAYED",
    "CON_FAILED",
    "CON_LOST",
    "NO_SUCH_HOST",
    "TOO_LONG",
    "Lonc",
    "Misconfigured",
    "Settings",
    "critical",
    "read_settings",
    "reply",
]

# Seconds that the default timeout adds to those of lonc: a caller that gave up earlier could repeat a
# request that is still being carried out.
MARGIN = 5.0
RESTART = 2.0  # seconds that a restart of lonc may take
PAUSE = 0.01  # seconds between two attempts
LONGEST_WAIT = 1e6  # seconds; a socket's timeout cannot be much longer
ATTEMPTS = 2  # to send a critical request, before it is saved


class Lonc:
    """Sends requests to the lonc of this machine, and keeps a connection to each host's socket.

    `settings`: lonc's; by default they are read from $LONC_CONF or the default file. Raises
    Misconfigured if there is no configuration.

    Not thread-safe. After a fork, the child process opens its own connections.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = _usual_settings() if settings is None else settings
        self._kept: dict[Path, socket.socket] = {}  # idle connections by the path of their socket
        self._table = _HostsTable(self._settings)
        self._pid = os.getpid()  # of the process that opened them

    def __enter__(self) -> Lonc:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. The next request opens a new one."""
        while self._kept:
            self._kept.popitem()[1].close()

    def reply(self, request: str | bytes, host: str, timeout: float | None = None) -> bytes:
        """Send `request` to `host`. Returns lond's reply; CON_LOST if there is none; NO_SUCH_HOST.

        `request`: one line without a newline; `str` is sent as UTF-8. The reply has no newline either.
        `host`: the id of a host in hosts.tab.
        `timeout`: seconds for the whole call; by default MARGIN more than lonc's own timeouts.

        A request that lonc cannot have taken is sent again: while the socket's backlog is full, until
        the timeout; while the socket is missing or refuses connections, for RESTART seconds; if the
        connection broke before the whole line was sent. A request that was sent is never sent again.

        Raises ValueError if `request` contains a newline.
        """
        line = _line(request)
        if not _may_be_host(host):
            return NO_SUCH_HOST
        settings = self._settings
        if settings.by_dns:
            line = b"sethost:%b:%b" % (host.encode(), line)
        if timeout is None:
            of_lonc = settings.connect_timeout + settings.queue_timeout + settings.request_timeout
            timeout = of_lonc + MARGIN
        deadline = time.monotonic() + timeout
        try:
            while True:
                answer = self._try(line, host, deadline)
                if answer is not None:
                    return answer
                time.sleep(PAUSE)
        except FileNotFoundError:
            return NO_SUCH_HOST
        except OSError:
            return CON_LOST

    def critical(self, request: str | bytes, host: str, timeout: float | None = None) -> bytes:
        """Send a request that must not get lost. Returns lond's reply, or one of those below.

        If there is no reply twice, the request is saved in `delayed/`, and lonc carries it out later. If
        an older request of the same user waits there for `host`, or one whose user cannot be told, it is
        saved behind that at once. The user is the second and third field, `put:DOMAIN:USER:...`, behind
        `encrypt:` too. The outcome is recorded in the permanent log, if that is writable. With
        loncDelayedKeyFile the request is sealed, or not saved.

        CON_DELAYED: the request is on the disk and will be carried out at least once; twice if a
        connection breaks at the wrong moment.
        CON_FAILED: it could not be saved. It may still have been carried out.
        TOO_LONG: it is longer than loncMaxRequest.
        NO_SUCH_HOST: hosts.tab has no such host.

        `timeout` applies to each attempt. The other parameters and exceptions are those of `reply`.
        """
        line = _line(request)
        if not _may_be_host(host):
            return NO_SUCH_HOST
        if not self._must_wait(line, host):
            for _ in range(ATTEMPTS):
                answer = self.reply(line, host, timeout)
                if answer != CON_LOST:
                    return answer
        if not self._table.may_have(host):
            return NO_SUCH_HOST
        if len(line) > self._settings.max_request:
            return TOO_LONG  # a saved request of that length would be rejected later
        try:
            spool.save(self._settings, line, host)
            kind, answer = spool.DELAYED, CON_DELAYED
        except (OSError, Misconfigured):
            kind, answer = spool.FAILED, CON_FAILED
        with contextlib.suppress(OSError):
            spool.record(self._settings, kind, host, line)
        return answer

    def _must_wait(self, line: bytes, host: str) -> bool:
        try:
            return must_wait(self._settings.delayed_directory, line, host)
        except OSError:
            return False  # the request cannot be saved either, so try to send it

    def _try(self, line: bytes, host: str, deadline: float) -> bytes | None:
        """Send the line once. Returns the reply; None if lonc did not take the line.

        After None the line may be sent again. The connection is kept only if it is idle afterwards; in
        all other cases it is closed. Raises OSError.
        """
        path = self._table.socket_path(host)
        connection = self._pop_kept(path) or _connect(path, self._table, host, deadline)
        with contextlib.ExitStack() as closing:
            closing.enter_context(connection)
            answer, idle = _exchange(connection, line + b"\n", deadline)
            if idle:
                closing.pop_all()
                self._kept[path] = connection
        return answer

    def _pop_kept(self, path: Path) -> socket.socket | None:
        """The kept connection to `path`, if it is still idle and open."""
        if self._pid != os.getpid():
            self.close()  # our descriptors only: the process before the fork keeps its own
            self._pid = os.getpid()
        connection = self._kept.pop(path, None)
        if connection is not None:
            try:
                connection.setblocking(False)
                connection.recv(1)
            except BlockingIOError:
                return connection
            except OSError:
                pass
            connection.close()  # lonc closed it, or sent a line without a request
        return None


def reply(
    request: str | bytes,
    host: str,
    *,
    timeout: float | None = None,
    settings: Settings | None = None,
) -> bytes:
    """`Lonc.reply` over a connection of its own. Raises ValueError, Misconfigured."""
    with Lonc(settings) as lonc:
        return lonc.reply(request, host, timeout)


def critical(
    request: str | bytes,
    host: str,
    *,
    timeout: float | None = None,
    settings: Settings | None = None,
) -> bytes:
    """`Lonc.critical` over a connection of its own. Raises ValueError, Misconfigured."""
    with Lonc(settings) as lonc:
        return lonc.critical(request, host, timeout)


def _line(request: str | bytes) -> bytes:
    line = request.encode() if isinstance(request, str) else request
    if b"\n" in line:
        raise ValueError("a request is one line: it must not contain a newline")
    return line


def _may_be_host(host: str) -> bool:
    return HOST_ID.fullmatch(host) is not None and host != DELAYED_DIRECTORY


def _connect(path: Path, table: _HostsTable, host: str, deadline: float) -> socket.socket:
    """Raises FileNotFoundError if hosts.tab lacks the host; another OSError after all attempts."""
    restarted = min(deadline, time.monotonic() + RESTART)
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_remaining(deadline))
            connection.connect(str(path))
            return connection
        except BlockingIOError:  # the backlog is full
            connection.close()
            last = deadline
        except ConnectionRefusedError:
            connection.close()
            last = restarted
        except FileNotFoundError:
            connection.close()
            last = restarted
            if not table.may_have(host):
                raise
        except OSError:
            connection.close()
            raise
        if time.monotonic() >= last:
            raise TimeoutError
        time.sleep(PAUSE)


def _exchange(connection: socket.socket, line: bytes, deadline: float) -> tuple[bytes | None, bool]:
    """Send a line and receive one.

    Returns the reply without its newline, and whether the connection is idle then. The reply is None if
    the line was not sent completely and no reply came: it may be sent again. Raises OSError.
    """
    sent = True
    try:
        connection.settimeout(_remaining(deadline))
        connection.sendall(line)
    except (BrokenPipeError, ConnectionResetError):
        sent = False  # lonc may have replied nevertheless, with TOO_LONG
    received = bytearray()
    try:
        while b"\n" not in received[-RECEIVE_SIZE:]:
            connection.settimeout(_remaining(deadline))
            data = connection.recv(RECEIVE_SIZE)
            if not data:
                raise ConnectionResetError("lonc closed the connection")
            received += data
    except ConnectionResetError:
        if sent:
            raise
        return None, False
    answer, _, rest = received.partition(b"\n")
    return bytes(answer), sent and not rest


def _remaining(deadline: float) -> float:
    """Seconds until `deadline`. Raises TimeoutError if it is over."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return min(seconds, LONGEST_WAIT)


class _HostsTable:
    """The hosts tables, read again whenever one of them has changed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._files: Sequence[FileState] = ()  # as they were read
        self._socket_names: dict[str, str] = {}  # by host id
        self._known_names: dict[str, str] = {}  # those, and the ones of earlier tables
        self._complete = False  # the table has no faults

    def may_have(self, host: str) -> bool:
        """Whether the host may exist. A table with faults may lack it; an empty one is being written."""
        self._read()
        return not self._complete or not self._socket_names or host in self._socket_names

    def socket_path(self, host: str) -> Path:
        """The path of the host's socket.

        With loncSocketName dns: raises FileNotFoundError if the table does not have the host, and
        ConnectionRefusedError if the name of its socket is not known yet.
        """
        if not self._settings.by_dns:
            return self._settings.socket_directory / host
        if not self.may_have(host):
            raise FileNotFoundError
        if host not in self._known_names:
            raise ConnectionRefusedError
        return self._settings.socket_directory / self._known_names[host]

    def _read(self) -> None:
        if not self._files or any(map(has_changed, self._files)):
            table = read_tables(self._settings)
            self._socket_names = {id_: host.name for host in table.hosts for id_ in host.ids}
            self._known_names |= self._socket_names
            self._complete = not table.faults
            self._files = table.files


@functools.cache
def _usual_settings() -> Settings:
    """The settings of the default file. Its faults are ignored, as a running lonc ignores them."""
    settings, faults = read_settings(find_configuration(None, os.environ))
    if any("loncDelayedKeyFile" in fault.text for fault in faults):
        # A key file that cannot be used: no request is saved. Plain text must not get to the disk.
        settings = replace(settings, delayed_key_file=Path(os.devnull))
    return settings
