"""One host's child: builds its parts, joins their callbacks and runs the loop.

A request and its reply, with the callbacks of the original (loncnew) along the way:

    client ──► Listener.new_client                    once for each client
    line   ──► Client.client_request
                 │ begins like one for lonc?  ──► OwnRequests.answer ──► reply
                 ▼
               Pool.queue_transaction                 idle connection? else wait in the Queue
                 ▼
               LondConnection.start_request ─ lond_writable ──► lond
                                                                  │
               LondConnection.lond_readable ◄─────────────────────┘
                 │ first:  Pool.server_to_idle        next transaction of the Queue, or on to the Stack
                 ▼ then:
               Pool.complete_transaction
                 ▼
    reply  ◄── Client.complete ─ client_writable

Over a socketpair to the parent:

    the child writes        the parent writes
    ----------------------------------------------------------------------
    ready                                       its loop runs
                            ping                now and then
    pong                                        proof that it does not hang
                            status
    status {…}                                  one line of JSON
    replace                                     a client has asked for a new child
                            retry               forget failures, connect now
                            disable, enable
                            look                there may be delayed transactions
                            leave               with a socket to the next child
    leaving                                     the idle clients have been passed on
    crash …                                     the exception that ends it

When the parent's end is closed, the parent has gone, and the child ends.
"""

from __future__ import annotations

import math
import signal
import socket
from collections.abc import Callable
from random import Random

from setproctitle import setproctitle

from lonc.child.client import Client
from lonc.child.connector import Connector
from lonc.child.handover import Handover, Succession
from lonc.child.history import History
from lonc.child.listener import Listener
from lonc.child.lond_connection import LondConnection, Timeouts
from lonc.child.memory_limit import MemoryLimit
from lonc.child.own_requests import ENCRYPTED, NOT_FOR_LOND, OWN_PREFIXES, OwnRequests
from lonc.child.pool import Pool, PoolLimits
from lonc.child.queue_timeouts import QueueTimeouts
from lonc.child.reachability import HostState
from lonc.child.replay import Replay
from lonc.child.report import ReportWriter
from lonc.child.resolver import OnFound, Resolver, fixed_address
from lonc.child.transaction import Transaction
from lonc.configuration import CLASSIC, INSECURE, ON_DEMAND, Settings
from lonc.hosts import Host
from lonc.log import follow, logger
from lonc.monitoring.statistics import Statistics
from lonc.runtime.backoff import Backoff
from lonc.runtime.channel import Channel
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.process import SPARE_DESCRIPTORS, descriptor_limit, ignore_signals
from lonc.wire.key_exchange import LOCALHOST, KeyExchange, is_asked_locally
from lonc.wire.lond_protocol import LondProtocol

MAX_LOGGED = 200  # bytes of a request
WRONG_KEY_AGAIN = 3600.0  # seconds without a wrong key, after which one is logged again

READY = b"ready\n"
PONG = b"pong\n"
REPLACE = b"replace\n"
LEAVING = b"leaving\n"


class Child:
    """Carries the transactions of one host between the clients at its socket and its lond.

    `listening` is the host's socket, `to_parent` the child's end of the socketpair; `predecessor` leads
    to the child whose clients this one takes over, if there is one; `disabled` is the host's initial
    state.
    """

    own_prefixes: tuple[bytes, ...] = OWN_PREFIXES

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
        self._descriptors = descriptor_limit() - SPARE_DESCRIPTORS  # for clients and connections
        self._loop = EventLoop()
        self._channel = Channel(
            self._loop, to_parent, self._order, on_closed=self._parent_ended, max_sockets=1
        )
        self._statistics = Statistics(self._loop.now)
        self._pool = Pool(
            self._loop,
            settings.max_connections,
            self._descriptors_for_connections,
            PoolLimits(
                connect_retries=settings.connect_retries,
                queue_timeout=settings.queue_timeout,
                idle_timeout=settings.idle_timeout,
                silence=settings.handshake_timeout,
                max_lifetime=settings.max_lifetime,
            ),
            Backoff(settings.retry_delay, settings.retry_max_delay, Random()),
            self._statistics,
            self.make_lond_connection,
            self._pool_changed,
            lambda count: self._queue_timeouts.add(count),
        )
        self._key_exchange = KeyExchange(host, settings)
        self._timeouts = Timeouts(
            dialogue=settings.handshake_timeout,
            request=settings.request_timeout,
            peer=settings.peer_timeout,
            keepalive=settings.keepalive,
            sync=settings.sync_interval or math.inf,
        )
        self._history = History(self._loop, self._pool.state)
        self._queue_timeouts = QueueTimeouts(
            self._loop,
            self._pool,
            settings.queue_timeout,
            settings.max_connections,
            self._history.record_error,
        )
        # A socket at another address than LOCALHOST's is no local one to lond.
        bind_address = None if is_asked_locally(host, settings) else settings.bind_address
        self._connector = Connector(
            self._loop, self._make_find(), bind_address, settings.connect_timeout
        )
        self._memory_limit = MemoryLimit(
            settings.max_buffered, self._holders, self._history.record_error
        )
        self._listener = Listener(
            self._loop,
            listening,
            self,
            max_clients=settings.max_clients,
            max_request=settings.max_request,
            on_full=self._history.record_error,
            on_drained=self._clients_gone,
            on_no_clients=self._start_idle_time,
            has_predecessor=predecessor is not None,
            max_per_user=settings.max_clients_per_user or math.inf,
            idle_timeout=settings.client_idle_timeout or math.inf,
        )
        if predecessor is not None:
            Succession(
                self._loop,
                predecessor,
                self._listener.expect,
                self._listener.adopt,
                max_bytes=settings.max_buffered,
            )
        self._replay = Replay(
            self._loop,
            settings,
            host.ids,
            NOT_FOR_LOND.match,
            self._pool.queue_delayed,
            self._pool.drop_transaction,
            on_error=self._history.record_error,
            on_nothing_in_flight=self._end_if_done,
        )
        self._report = ReportWriter(
            self._loop,
            host,
            self._statistics,
            self._history,
            self._pool,
            self._listener,
            self._replay,
            settings.max_connections,
        )
        self._own_requests = OwnRequests(
            host.ids if settings.by_dns else None,
            status=self.status_line,
            retry=self._pool.reset_retries,
            replace=lambda: self._channel.send(REPLACE),
        )
        if disabled:
            self._pool.disable()
        self._idle_until = math.inf  # then an on-demand child without clients leaves
        self._idle_alarm = self._loop.alarm(self._leave_if_idle)
        self._clients_have_left = False
        self._wrong_key_at = -math.inf  # when a connection last had one
        self._handover: Handover | None = None
        self._stopping = False
        # The services of a client. A call of the pool itself costs less than one through a method here.
        self.answer = self._own_requests.answer
        self.queue_transaction = self._pool.queue_transaction
        if settings.log_level == "debug":
            self.queue_transaction = self._log_and_queue
        self.drop_transaction = self._pool.drop_transaction
        self.report_growth = self._memory_limit.report_growth

    def run(self) -> None:
        """Serve until this child was asked to leave and is done, or until the parent has gone."""
        # Above all SIGINT: ^C reaches the whole terminal group, but the parent decides.
        ignore_signals(except_for=[signal.SIGTERM])
        self._loop.on_signal(signal.SIGTERM, self.drain)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._set_title()
        self._channel.send(READY)
        self._pool.open()
        self._replay.look()
        self._start_idle_time()
        self._loop.run()

    def make_lond_connection(self) -> LondConnection:
        """A connection to this host's lond that has not connected yet."""
        return LondConnection(
            self._loop,
            LondProtocol(
                self._host.id,
                self._settings.host_id,
                self._settings.max_reply,
                self._key_exchange.choose,
                several_ids=len(self._host.ids) > 1,
                learn_ping=self._settings.sync_interval > 0,
                allow_plain_replies=self._settings.allow_plain_replies,
                on_wrong_key=self._record_wrong_key,
            ),
            self._connector,
            self._timeouts,
            on_ready=self._connection_ready,
            on_idle=self._pool.server_to_idle,
            on_retired=self._pool.retired_to_idle,
            on_reply=self._pool.complete_transaction,
            on_growth=self.report_growth,
            on_closed=self._pool.connection_closed,
        )

    def status_line(self) -> bytes:
        """The status report, one line of JSON."""
        return self._report.line()

    def drain(self) -> None:
        """Callback of SIGTERM: reply to every whole line that has arrived, then end; or end after
        `loncDrainTimeout`."""
        if self._stopping:
            return
        self._stopping = True
        self._pool.drain()
        self._replay.leave()
        self._loop.after(self._settings.drain_timeout, self._drain_timed_out)
        self._listener.drain()
        self._pool.close_idle()  # after the clients' last lines, which may need them

    def leave(self, successor: socket.socket) -> None:
        """Pass the clients on to the next child, and end after the last request in flight."""
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

    def _order(self, line: bytes) -> None:
        """Callback: the parent has written a line."""
        match line:
            case b"ping\n":
                self._channel.send(PONG)
                follow()
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
            case b"leave\n" if self._channel.received:
                self.leave(self._channel.received.popleft())
            case _:
                # The parent and its children are of one version, so one of them is broken.
                raise ValueError(f"the parent said {line[:MAX_LOGGED]!r}")

    def _parent_ended(self) -> None:
        """Callback. With the parent, the lock has gone that says that the socket is ours."""
        fault = self._channel.fault
        logger.error("the parent %s", "has gone" if fault is None else f"is not trusted: {fault}")
        self._loop.stop()

    def _log_and_queue(self, transaction: Transaction) -> None:
        """Log a request; one that is to be encrypted is secret."""
        request = transaction.request.removesuffix(b"\n")
        if not ENCRYPTED.match(request):
            text = request[:MAX_LOGGED].decode(errors="backslashreplace")
            logger.debug("request: %s%s", text, "…" if len(request) > MAX_LOGGED else "")
        self._pool.queue_transaction(transaction)

    def _connection_ready(self, connection: LondConnection) -> None:
        mode, version = connection.protocol.mode, connection.protocol.lond_version
        report = self._report
        if self._settings.sync_interval:
            report.ping_known = connection.protocol.ping_answer is not None
        if connection.protocol.fell_back:
            self._statistics.fell_back(self._loop.now)
        if (mode, version) != (report.mode, report.lond_version):
            report.mode, report.lond_version = mode, version
            if mode != CLASSIC:
                wanted = self._settings.key_mode
                unwanted = mode == INSECURE and wanted != INSECURE
                log = logger.warning if unwanted else logger.info
                log("keys are exchanged in mode %s (of %s), with lond %s", mode, wanted, version)
        self._pool.connection_ready(connection)

    def _record_wrong_key(self, complaint: str) -> None:
        """Callback: count it, and log it unless that was done and it goes on."""
        now = self._loop.now
        self._statistics.wrong_key(now)
        if now - self._wrong_key_at > WRONG_KEY_AGAIN:
            self._history.record_error(complaint)
        self._wrong_key_at = now

    def _pool_changed(self, why: str | None) -> None:
        self._set_title()
        self._listener.descriptor_closed()  # perhaps
        state = self._pool.state
        if self._history.record_state(state, why) and state is HostState.READY:
            self._replay.look()
        if why is not None:
            self._replay.look_soon()

    def _descriptors_for_connections(self) -> int:
        """Less than `loncMaxConnections` if the previous child has passed on more clients than our own
        settings allow."""
        return self._descriptors - len(self._listener.clients) - (self._listener.expected or 0)

    def _holders(self) -> list[Client | LondConnection]:
        return [*self._listener.clients, *self._pool]

    def _make_find(self) -> Callable[[OnFound], None]:
        host, settings = self._host, self._settings
        if is_asked_locally(host, settings):
            return fixed_address(LOCALHOST, settings.lond_port)
        if host.address is not None:
            return fixed_address(host.address, settings.lond_port)
        ipv4_only = settings.bind_address is not None
        resolver = Resolver(
            self._loop,
            host.dnsname,
            settings.lond_port,
            ipv4_only,
            settings.lookup_timeout,
            self._history.record_attempt_error,
        )
        return resolver.find

    # The end: after `drain` or `leave`, or of an on-demand child after `loncIdleTimeout`.

    def _clients_gone(self) -> None:
        """Callback: this child accepts no more clients, and the last one has left."""
        self._clients_have_left = True
        self._end_if_done()

    def _end_if_done(self) -> None:
        """Callback: no delayed transaction is in flight."""
        if not self._clients_have_left or self._replay.in_flight:
            return
        if self._handover is None:
            self._loop.stop()
        else:
            self._handover.finish(self._loop.stop)

    def _drain_timed_out(self) -> None:
        failed = self._statistics.failed
        self._pool.shut_down("lonc is shutting down")
        count = self._statistics.failed - failed
        logger.warning("loncDrainTimeout is over: con_lost for %d requests", count)
        self._loop.stop()

    def _start_idle_time(self) -> None:
        """Callback: the last client has left, or none has come yet."""
        if self._settings.children == ON_DEMAND:
            self._idle_until = self._loop.now + self._settings.idle_timeout
            self._idle_alarm.ring_by(self._idle_until)

    def _leave_if_idle(self) -> None:
        """Callback of the alarm. The next client will start another child."""
        if self._listener.clients or self._handover is not None:
            return
        if self._loop.now < self._idle_until:
            self._idle_alarm.ring_by(self._idle_until)
        elif self._listener.expected != 0 or self._pool.busy or self._replay.waiting:
            self._start_idle_time()  # there is work without a client
        else:
            self.drain()

    def _set_title(self) -> None:
        """The process title, in the original's words: operators and their scripts look for them."""
        pool, mode = self._pool, self._report.mode
        if pool.state is HostState.DEAD:
            setproctitle(f"lonc: {self._host.name} >>> DEAD !!!! <<<")
        else:
            key_mode = "" if mode in (None, CLASSIC) else f" ({mode})"
            leaving = " (leaving)" if pool.state is HostState.DRAINING else ""
            setproctitle(
                f"lonc: {self._host.name} Connection count: {len(pool)}"
                f" Retries remaining: {pool.reachability.retries_remaining}{key_mode}{leaving}"
            )
