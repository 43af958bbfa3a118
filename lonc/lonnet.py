"""For programs that ask: one request to a host through the lonc of this machine.

from lonc import lonnet

lonnet.reply("ping", "msul1")                # b"msul1", or b"con_lost"
lonnet.critical("put:msu:x:y:z=1", "msul1")  # lond's reply, or b"con_delayed"

with lonnet.Lonc() as lonc:                  # for many requests: keeps its connections
    lonc.reply("ping", "msul1")
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from lonc.configuration import Settings
from lonc.configuration_file import find_configuration, read_settings
from lonc.errors import Misconfigured
from lonc.hosts import read_hosts
from lonc.replies import CON_DELAYED, CON_FAILED, CON_LOST, NO_SUCH_HOST, TOO_LONG
from lonc.runtime.line_buffer import RECEIVE_SIZE
from lonc.setting_types import HOST_ID
from lonc.spool import spool

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

# Seconds beyond all that lonc itself may take: a caller that gave up before would ask again for what may
# still be done.
MARGIN = 5.0
RESTART = 2.0  # seconds that a lonc may need to come back
PAUSE = 0.01  # seconds between two tries
LONGEST_WAIT = 1e6  # seconds; sockets take no more
TRIES = 2  # of what is critical, before it is saved


class Lonc:
    """The lonc of this machine, over connections that are kept: one a socket, from request to request.

    `settings` say where it is, and how long it may take; unless given they are read from the usual
    place. Raises Misconfigured without a configuration.

    For one thread at a time. After a fork the other process opens connections of its own.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = _usual_settings() if settings is None else settings
        self._kept: dict[Path, socket.socket] = {}  # by its path; on none of them is anything awaited
        self._table = _Table(self._settings)
        self._pid = os.getpid()  # whose they are

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
        """Close all connections; the next request opens a new one."""
        while self._kept:
            self._kept.popitem()[1].close()

    def reply(self, request: str | bytes, host: str, timeout: float | None = None) -> bytes:
        """lond's reply to `request`; `con_lost` if there is none, `no_such_host` without such a host.

        Neither request nor reply has a newline; text goes out as UTF-8. `timeout` is in seconds, for all
        of it; unless given it is longer than lonc itself takes to give up.

        What lonc cannot have taken is tried again: a full backlog until the timeout, a missing or deaf
        socket for RESTART seconds (a restart), a connection that broke before the whole line was sent.
        A request that was sent is never sent again.

        Raises ValueError for a request with a newline in it.
        """
        line = _line(request)
        if not _may_be_host(host):
            return NO_SUCH_HOST
        settings = self._settings
        if settings.by_dns:
            line = b"sethost:%b:%b" % (host.encode(), line)
        if timeout is None:
            lonc_takes = settings.connect_timeout + settings.queue_timeout + settings.request_timeout
            timeout = lonc_takes + MARGIN
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
        """lond's reply to a request that must not get lost.

        Where there is none, twice, the request is saved to be carried out later: `con_delayed` says that
        it is on the disk, `con_failed` that it could not be saved, and is lost unless lond has carried
        it out after all. Where older requests to `host` wait already, it is saved behind them at once.
        What is saved is carried out at least once; a connection that breaks at the wrong moment makes it
        twice. What became of it stands in the permanent log, if that can be written. With a
        loncDelayedKeyFile it is sealed, or not saved at all.

        `timeout` is for each try; the rest is as with `reply`.
        """
        line = _line(request)
        if not _may_be_host(host):
            return NO_SUCH_HOST
        if not self._others_wait(host):
            for _ in range(TRIES):
                answer = self.reply(line, host, timeout)
                if answer != CON_LOST:
                    return answer
        if not self._table.may_have(host):
            return NO_SUCH_HOST
        if len(line) > self._settings.max_request:
            return TOO_LONG  # lonc would not take it later, either
        try:
            spool.save(self._settings, line, host)
            kind, answer = spool.DELAYED, CON_DELAYED
        except (OSError, Misconfigured):
            kind, answer = spool.FAILED, CON_FAILED
        with contextlib.suppress(OSError):
            spool.record(self._settings, kind, host, line)
        return answer

    def _others_wait(self, host: str) -> bool:
        try:
            return spool.newest(self._settings.delayed_directory, host) is not None
        except OSError:
            return False  # then nothing can be saved, either: all the more it is worth a try

    def _try(self, line: bytes, host: str, deadline: float) -> bytes | None:
        """Ask once. The connection is kept only if it is at rest after that, whatever else happens.

        None if the line was not taken and may be sent again. Raises OSError.
        """
        path = self._table.socket_of(host)
        connection = self._take(path) or _connect(path, self._table, host, deadline)
        with contextlib.ExitStack() as unless_kept:
            unless_kept.enter_context(connection)
            answer, at_rest = _ask(connection, line + b"\n", deadline)
            if at_rest:
                unless_kept.pop_all()
                self._kept[path] = connection
        return answer

    def _take(self, path: Path) -> socket.socket | None:
        """The connection there that was kept, if it is still of use."""
        if self._pid != os.getpid():
            self.close()  # for us; whose they are still has them
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
            connection.close()  # as lonc did; or it says what nobody has asked for
        return None


def reply(
    request: str | bytes,
    host: str,
    *,
    timeout: float | None = None,
    settings: Settings | None = None,
) -> bytes:
    """One `Lonc.reply`, over a connection of its own. Raises ValueError, and Misconfigured."""
    with Lonc(settings) as lonc:
        return lonc.reply(request, host, timeout)


def critical(
    request: str | bytes,
    host: str,
    *,
    timeout: float | None = None,
    settings: Settings | None = None,
) -> bytes:
    """One `Lonc.critical`, over a connection of its own. Raises ValueError, and Misconfigured."""
    with Lonc(settings) as lonc:
        return lonc.critical(request, host, timeout)


def _line(request: str | bytes) -> bytes:
    line = request.encode() if isinstance(request, str) else request
    if b"\n" in line:
        raise ValueError("a request is one line: it has no newline in it")
    return line


def _may_be_host(host: str) -> bool:
    return HOST_ID.fullmatch(host) is not None and host != "delayed"  # which is beside the sockets


def _connect(path: Path, table: _Table, host: str, deadline: float) -> socket.socket:
    """Raises FileNotFoundError for a host that the table lacks, other OSErrors after all tries."""
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
            if not table.may_have(host):
                raise
        except OSError:
            connection.close()
            raise
        if time.monotonic() >= last:
            raise TimeoutError
        time.sleep(PAUSE)


def _ask(connection: socket.socket, line: bytes, deadline: float) -> tuple[bytes | None, bool]:
    """The reply without its newline, None if the line was not taken and may be sent again; and whether
    the next request may be sent here. Raises OSError."""
    taken = True
    try:
        connection.settimeout(_left(deadline))
        connection.sendall(line)
    except (BrokenPipeError, ConnectionResetError):
        taken = False  # but lonc may have said why
    received = bytearray()
    try:
        while b"\n" not in received[-RECEIVE_SIZE:]:
            connection.settimeout(_left(deadline))
            data = connection.recv(RECEIVE_SIZE)
            if not data:
                raise ConnectionResetError("lonc closed the connection")
            received += data
    except ConnectionResetError:
        if taken:
            raise
        return None, False
    answer, _, behind = received.partition(b"\n")
    return bytes(answer), taken and not behind


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return min(left, LONGEST_WAIT)


class _Table:
    """The hosts table, read again whenever it has changed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._look: tuple[int, int, int] | None = None
        self._names: dict[str, str] = {}  # of sockets, by host id
        self._known: dict[str, str] = {}  # the same, and what it said before it had faults
        self._sound = False

    def may_have(self, host: str) -> bool:
        """A table with faults may have any, and an empty one is being written."""
        self._read()
        return not self._sound or not self._names or host in self._names

    def socket_of(self, host: str) -> Path:
        """Where a host's socket is.

        Where the table must say that, raises FileNotFoundError if it lacks the host, and
        ConnectionRefusedError if it has never said.
        """
        if not self._settings.by_dns:
            return self._settings.socket_directory / host
        if not self.may_have(host):
            raise FileNotFoundError
        if host not in self._known:
            raise ConnectionRefusedError
        return self._settings.socket_directory / self._known[host]

    def _read(self) -> None:
        settings = self._settings
        try:
            found = os.stat(settings.hosts_file)
            look = found.st_ino, found.st_size, found.st_mtime_ns
        except OSError:
            look = None
        if look is None or look != self._look:
            hosts, faults = read_hosts(settings.hosts_file, settings.socket_directory, settings.by_dns)
            self._names = {id_: host.name for host in hosts for id_ in host.ids}
            self._known |= self._names
            self._sound = not faults
            self._look = look


@functools.cache
def _usual_settings() -> Settings:
    """A fault elsewhere in the file, which does not disturb a running lonc, does not disturb us."""
    settings, faults = read_settings(find_configuration(None, os.environ))
    if any("loncDelayedKeyFile" in fault.text for fault in faults):
        # Better nothing is saved than in clear what was to be sealed.
        settings = replace(settings, delayed_key_file=Path(os.devnull))
    return settings
