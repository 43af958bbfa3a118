"""The status report of one host: collects the figures of the child's parts into one line."""

from __future__ import annotations

import os
from collections import Counter

from lonc import __version__
from lonc.child.history import History, wall_clock
from lonc.child.listener import Listener
from lonc.child.lond_connection import LondConnection
from lonc.child.pool import Pool
from lonc.child.replay import Replay
from lonc.hosts import Host
from lonc.monitoring.statistics import Statistics
from lonc.monitoring.status import HostStatus
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.process import resident_memory


class ReportWriter:
    """Writes the report, at most once a turn of the loop and only if a figure has changed: a client that
    asks for it in an endless loop must not hold up the others."""

    def __init__(
        self,
        loop: EventLoop,
        host: Host,
        statistics: Statistics,
        history: History,
        pool: Pool[LondConnection],
        listener: Listener,
        replay: Replay,
        max_connections: int,
    ) -> None:
        self.mode: str | None = None  # how the last connection exchanged its key
        self.lond_version: str | None = None  # of the last connection
        self.ping_known: bool | None = None  # to lond, by the last connection; None if not asked
        self._loop = loop
        self._host = host
        self._statistics = statistics
        self._history = history
        self._pool = pool
        self._listener = listener
        self._replay = replay
        self._max_connections = max_connections
        self._since = wall_clock()
        self._version: object = None  # of `_line`
        self._line = b""

    def line(self) -> bytes:
        """The report, one line of JSON."""
        pool = self._pool
        version = (
            self._statistics.version(self._loop.now),
            self._history.version,
            len(self._listener.clients),
            self._replay.waiting,
            pool.census,
            # These figures grow by time:
            self._loop.now if pool.waiting or pool.attempting or pool.busy else None,
        )
        if version != self._version:
            self._version, self._line = version, self._status().to_line()
        return self._line

    def _status(self) -> HostStatus:
        changes = self._history.changes
        return HostStatus(
            host=self._host.name,
            state=self._pool.state.value,
            state_since=changes[-1][0],
            mode=self.mode,
            lond_version=self.lond_version,
            ping_known=self.ping_known,
            connections=dict(Counter(each.protocol.state.value for each in self._pool)),
            max_connections=self._max_connections,
            clients=len(self._listener.clients),
            waiting=self._pool.waiting,
            oldest_wait=round(self._pool.oldest_wait, 3),
            oldest_in_flight=round(self._pool.oldest_in_flight, 3),
            delayed=self._replay.waiting,
            oldest_delayed=self._replay.oldest,
            last_error=self._history.last_error,
            changes=tuple(changes),
            since=self._since,
            pid=os.getpid(),
            memory=resident_memory(),
            version=__version__,
            **self._statistics.report(self._loop.now),
        )
