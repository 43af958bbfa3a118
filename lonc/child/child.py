"""One host's child: builds its parts, joins their callbacks, runs the loop.

    the child says          the parent says
    ----------------------------------------------------------------------
    ready                                       its loop runs
                            ping                now and then
    pong                                        it does not hang
                            status
    status {…}                                  one line of JSON
    replace                                     a client has asked for that
                            retry               forget failures, connect now
                            disable, enable
                            look                there may be delayed transactions
                            leave               and a socket to the next child
    leaving                                     who was at rest has been passed on
    crash …                                     its last words

The end of this talk is the parent's end, and then the child's.
"""

from __future__ import annotations

import math
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable
from random import Random

from setproctitle import setproctitle

from lonc import __version__
from lonc.child.client import Client
from lonc.child.handover import Handover, Succession
from lonc.child.history import History, wall_clock
from lonc.child.listener import Listener
from lonc.child.lond_connection import LondConnection, Timeouts
from lonc.child.memory_limit import MemoryLimit
from lonc.child.own_requests import FOR_WHOM, MAYBE_OWN, NOT_FOR_LOND, ORDERS, REFUSED, SECRET
from lonc.child.pool import HostState, Patience, Pool
from lonc.child.replay import Replay
from lonc.child.resolver import Found, Resolver, known
from lonc.child.transaction import Transaction
from lonc.configuration import CLASSIC, INSECURE, ON_DEMAND, Settings
from lonc.hosts import Host
from lonc.log import logger
from lonc.monitoring.statistics import Statistics
from lonc.monitoring.status import HostStatus
from lonc.replies import NO_SUCH_HOST
from lonc.runtime.backoff import Backoff
from lonc.runtime.channel import Channel
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.line_buffer import Line
from lonc.runtime.process import SPARE_DESCRIPTORS, descriptor_limit, ignore_signals, resident_memory
from lonc.wire.key_exchange import KeyExchange
from lonc.wire.lond_protocol import LondProtocol

LONGEST_TOLD = 200  # bytes of a request, in the log

READY = b"ready\n"
PONG = b"pong\n"
REPLACE = b"replace\n"
LEAVING = b"leaving\n"


def _may_order(client: Client) -> bool:
    """Only for root, our own user and our group: who may ask may not, by that alone, disturb others."""
    user, group = client.owner
    return user in (0, os.geteuid()) or group == os.getegid()


class Child:
    """Carries the transactions of one host, from its listening socket to its lond.

    `predecessor` leads to the child whose clients this one takes over, where there is one.
    """

    maybe_own: tuple[bytes, ...] = MAYBE_OWN

    def __init__(
        self,
        host: Host,
        settings: Settings,
        listening: socket.socket,
        to_parent: socket.socket,
        predecessor: socket.socket | None,
        disabled: bool,
    ) -> None:
        self._host = host
        self._settings = settings
        self._since = wall_clock()
        self._reported: tuple[object, bytes] = None, b""  # and of what it tells
        self._descriptors = descriptor_limit() - SPARE_DESCRIPTORS  # for clients and connections
        self._loop = EventLoop()
        self._channel = Channel(self._loop, to_parent, on_line=self._order, on_closed=self._orphaned)
        self._statistics = Statistics(self._loop.now)
        self._pool = Pool(
            self._loop,
            settings.max_connections,
            self._descriptors_for_connections,
            Patience(settings.connect_retries, settings.queue_timeout, settings.idle_timeout),
            Backoff(settings.retry_delay, settings.retry_max_delay, Random()),
            self._statistics,
            self.make_lond_connection,
            self._pool_changed,
        )
        self._find = self._make_find()
        self._key_exchange = KeyExchange(host, settings)
        self._mode: str | None = None  # how the last connection came to its key
        self._lond_version: str | None = None
        self._timeouts = Timeouts(
            settings.connect_timeout, settings.handshake_timeout, settings.request_timeout
        )
        self._history = History(self._loop, self._pool.state)
        self._memory_limit = MemoryLimit(settings.max_buffered, self._holders, self._history.trouble)
        self._listener = Listener(
            self._loop,
            listening,
            self,
            max_clients=settings.max_clients,
            max_request=settings.max_request,
            on_full=self._history.trouble,
            on_drained=self._drained,
            on_quiet=self._nobody_here,
            succeeds=predecessor is not None,
        )
        if predecessor is not None:
            Succession(self._loop, predecessor, self._listener.expect, self._listener.adopt)
        self._replay = Replay(
            self._loop,
            settings,
            host.ids,
            NOT_FOR_LOND.match,
            self._pool.queue_delayed,
            self._pool.drop_transaction,
            on_trouble=self._history.trouble,
            on_rest=self._perhaps_gone,
        )
        if disabled:
            self._pool.disable()
        self._leave_at = math.inf
        self._quiet = self._loop.alarm(self._perhaps_leave)
        self._clients_drained = False
        self._handover: Handover | None = None
        self._stopping = False
        # A client's transactions go straight to the pool, unless somebody wants to see them.
        self.queue_transaction = self._pool.queue_transaction
        if settings.log_level == "debug":
            self.queue_transaction = self._tell_and_queue
        self.drop_transaction = self._pool.drop_transaction
        self.held = self._memory_limit.grew

    def run(self) -> None:
        """Serve until asked to leave and all is served, or until the parent has gone."""
        # INT above all: ^C reaches the whole terminal group, and the parent decides.
        ignore_signals(except_for=[signal.SIGTERM])
        self._loop.on_signal(signal.SIGTERM, self.drain)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._set_title()
        self._channel.send(READY)
        self._pool.open()
        self._replay.look()
        self._nobody_here()
        self._loop.run()

    def make_lond_connection(self) -> LondConnection:
        """A connection to this host's lond that still has to connect."""
        return LondConnection(
            self._loop,
            LondProtocol(
                self._host.id,
                self._settings.host_id,
                self._settings.max_reply,
                self._key_exchange.choose,
                several_ids=len(self._host.ids) > 1,
            ),
            self._find,
            self._settings.bind_address,
            self._timeouts,
            on_ready=self._connection_ready,
            on_idle=self._pool.server_to_idle,
            on_reply=self._pool.complete_transaction,
            on_held=self.held,
            on_closed=self._pool.connection_closed,
        )

    def _connection_ready(self, connection: LondConnection) -> None:
        mode, version = connection.mode, connection.lond_version
        if (mode, version) != (self._mode, self._lond_version):
            self._mode, self._lond_version = mode, version
            if mode != CLASSIC:
                worst = mode == INSECURE and self._settings.key_mode != INSECURE
                tell = logger.warning if worst else logger.info
                wanted = self._settings.key_mode
                tell("keys are agreed upon in mode %s (of %s), with lond %s", mode, wanted, version)
        self._pool.connection_ready(connection)

    def answer(self, request: Line, client: Client) -> bytes | None:
        """The reply to a request that is lonc's own affair; None if it is for lond."""
        if self._settings.by_dns and (for_whom := FOR_WHOM.match(request)):
            if for_whom[1].decode(errors="replace") not in self._host.ids:
                return NO_SUCH_HOST + b"\n"
            request = request[for_whom.end() :]
        if REFUSED.match(request) or (request in ORDERS and not _may_order(client)):
            return b"refused\n"
        if request == b"lonc:status\n":
            return self.status_line()
        if request.startswith(b"lonc:"):
            return b"error: unknown lonc command\n"
        if request == b"reset_retries\n":
            self._pool.reset_retries()
            return b"ok\n"
        if request == b"close_connection_exit\n":
            self._channel.send(REPLACE)
            return b"ok\n"
        return None

    def _tell_and_queue(self, transaction: Transaction) -> None:
        """What travels encrypted is not told."""
        request = transaction.request.removesuffix(b"\n")
        if not SECRET.match(request):
            cut = request[:LONGEST_TOLD].decode(errors="backslashreplace")
            logger.debug("request: %s%s", cut, "…" if len(request) > LONGEST_TOLD else "")
        self._pool.queue_transaction(transaction)

    def status_line(self) -> bytes:
        """The status report; that of the last time as long as nothing has changed, and in any case for
        this turn of the loop: who asks for it without end must not hold it up."""
        pool = self._pool
        version = (
            self._statistics.version(self._loop.now),
            self._history.version,
            len(self._listener.clients),
            self._replay.waiting,
            pool.census,
            self._loop.now if pool.waiting or pool.attempting else None,  # then it differs by itself
        )
        if version != self._reported[0]:
            self._reported = version, self._status().to_line()
        return self._reported[1]

    def _status(self) -> HostStatus:
        changes = self._history.changes
        return HostStatus(
            host=self._host.name,
            state=self._pool.state.value,
            state_since=changes[-1][0],
            mode=self._mode,
            lond_version=self._lond_version,
            connections=dict(Counter(connection.state.value for connection in self._pool)),
            clients=len(self._listener.clients),
            waiting=self._pool.waiting,
            oldest_wait=round(self._pool.oldest_wait, 3),
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

    def drain(self) -> None:
        """Leave when every whole line that has arrived is answered, or time is up."""
        if self._stopping:
            return
        self._stopping = True
        self._pool.drain()
        self._replay.leave()
        self._loop.after(self._settings.drain_timeout, self._time_is_up)
        self._listener.drain()
        self._pool.close_idle()  # only now: the clients' last lines have taken what they need

    def leave(self, successor: socket.socket) -> None:
        """Pass the clients on to the next child; leave when the last request in flight has ended."""
        if self._stopping:
            successor.close()
        else:
            self._pool.drain()
            self._replay.leave()
            self._handover = Handover(
                self._loop, successor, on_passed=self._pool.close_idle, on_broken=self._listener.drain
            )
            self._listener.leave(self._handover)
            self._pool.close_idle()
        self._channel.send(LEAVING)

    def _descriptors_for_connections(self) -> int:
        """Too few where more clients were passed on than our own settings would let in."""
        return self._descriptors - len(self._listener.clients) - (self._listener.expected or 0)

    def _drained(self) -> None:
        """Callback: no client is here any more, and none will come."""
        self._clients_drained = True
        self._perhaps_gone()

    def _perhaps_gone(self) -> None:
        """Callback: nothing delayed is in flight."""
        if not self._clients_drained or self._replay.in_flight:
            return
        if self._handover is None:
            self._loop.stop()
        else:
            self._handover.finish(self._loop.stop)

    def _nobody_here(self) -> None:
        """Callback: the last client has left, or none has come yet."""
        if self._settings.children == ON_DEMAND:
            self._leave_at = self._loop.now + self._settings.idle_timeout
            self._quiet.ring_by(self._leave_at)

    def _perhaps_leave(self) -> None:
        """Callback: there was nobody for a while. Whoever comes will wake the next child."""
        if self._listener.clients or self._handover is not None:
            return  # we are told again when they have gone
        if self._loop.now < self._leave_at:
            self._quiet.ring_by(self._leave_at)
        elif self._listener.expected != 0 or self._pool.busy or self._replay.waiting:
            self._nobody_here()  # but there is work: some time after it
        else:
            self.drain()

    def _time_is_up(self) -> None:
        failed = self._statistics.failed
        self._pool.shut("lonc is shutting down")
        logger.warning(
            "the time to drain is up: con_lost for %d requests", self._statistics.failed - failed
        )
        self._loop.stop()

    def _orphaned(self) -> None:
        """The parent has gone, and with it the lock that says whose socket this is."""
        logger.error("the parent has gone")
        self._loop.stop()

    def _order(self, line: bytes) -> None:
        match line:
            case b"ping\n":
                self._channel.send(PONG)
            case b"status\n":
                self._channel.send(b"status " + self.status_line())
            case b"retry\n":
                self._pool.reset_retries()
            case b"disable\n":
                self._pool.disable()
            case b"enable\n":
                self._pool.enable()
            case b"look\n":
                self._replay.look()
            case b"leave\n":
                self.leave(self._channel.received.popleft())
            case _:
                raise AssertionError(f"the parent said {line!r}")

    def _make_find(self) -> Callable[[Found], None]:
        host, settings = self._host, self._settings
        if host.address is not None:
            return known(host.address, settings.lond_port)
        ipv4_only = settings.bind_address is not None
        return Resolver(self._loop, host.dnsname, settings.lond_port, ipv4_only).find

    def _holders(self) -> list[Client | LondConnection]:
        return [*self._listener.clients, *self._pool]

    def _pool_changed(self, why: str | None) -> None:
        self._set_title()
        self._listener.descriptor_closed()  # it may be so
        state = self._pool.state
        if self._history.heard(state, why) and state is HostState.READY:
            self._replay.look()  # it may be back after a while

    def _mode_in_title(self) -> str:
        return "" if self._mode in (None, CLASSIC) else f" ({self._mode})"

    def _set_title(self) -> None:
        """The original's words; operators and their scripts look for them."""
        pool = self._pool
        if pool.state is HostState.DEAD:
            setproctitle(f"lonc: {self._host.name} >>> DEAD !!!! <<<")
        else:
            leaving = " (leaving)" if pool.state is HostState.DRAINING else ""
            setproctitle(
                f"lonc: {self._host.name} Connection count: {len(pool)}"
                f" Retries remaining: {pool.retries_remaining}{self._mode_in_title()}{leaving}"
            )
