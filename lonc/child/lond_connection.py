"""One connection to lond: a TCP socket around a LondProtocol."""

from __future__ import annotations

import contextlib
import errno
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass

from lonc.child.connector import Attempt, Connector
from lonc.child.keepalive import LARGE_REQUEST, Keepalive, since_data, unanswered
from lonc.child.transaction import Transaction
from lonc.errors import OutOfStep, PlainReply, ProtocolError
from lonc.monitoring.statistics import Reason
from lonc.runtime.event_loop import READ, EventLoop, Watch
from lonc.runtime.line_buffer import RECEIVE_SIZE, Line
from lonc.wire.lond_protocol import LondProtocol, State

# With these the kernel ends a connection whose peer does not answer (tcp_write_err).
_UNREACHABLE = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
_RECEIVING = State.RECEIVING_REPLY
_IDLE = State.IDLE  # a global is found faster than a member, and every reply needs it


@dataclass(frozen=True)
class Timeouts:
    """In seconds."""

    dialogue: float  # from connected to Idle
    request: float  # from the start of a request to the end of its reply
    peer: float  # of data that lond's machine does not acknowledge
    keepalive: float  # until an idle connection is probed; 0 for never
    sync: float  # until a connection in constant use is checked for being out of step


class LondConnection:
    """Connects, carries one transaction at a time, and closes at the first error or timeout.

    `connector` makes its TCP connection; `protocol` has the state of its dialogue.

    Callbacks:

    - `on_ready(connection)`: the dialogue has come to Idle;
    - `on_idle(connection)`: a reply has arrived, the next transaction may start;
    - `on_retired(connection)`: the same, after `retire`;
    - `on_reply(transaction, reply)`: after that, or after `on_closed` if the connection ended with it;
    - `on_growth(count)`: `count` more bytes of an unfinished reply are held;
    - `on_closed(connection, why, transaction)`: once, with the transaction in flight or None.
    """

    __slots__ = (
        "_alarm",
        "_attempt",
        "_check_at",
        "_connector",
        "_deadline",
        "_dialogue_timeout",
        "_keepalive",
        "_loop",
        "_on_closed",
        "_on_deadline",
        "_on_growth",
        "_on_idle",
        "_on_ready",
        "_on_reply",
        "_on_retired",
        "_replied_at",
        "_socket",
        "_timeouts",
        "_transaction",
        "_watch",
        "failure",
        "heard",
        "lost_unheard",
        "protocol",
        "replied",
        "vanished",
    )

    def __init__(
        self,
        loop: EventLoop,
        protocol: LondProtocol,
        connector: Connector,
        timeouts: Timeouts,
        *,
        on_ready: Callable[[LondConnection], None],
        on_idle: Callable[[LondConnection], None],
        on_retired: Callable[[LondConnection], None],
        on_reply: Callable[[Transaction, Line], None],
        on_growth: Callable[[int], None],
        on_closed: Callable[[LondConnection, str, Transaction | None], None],
    ) -> None:
        self._loop = loop
        self.protocol = protocol
        self._connector = connector
        self._attempt: Attempt | None = None  # to connect, while that is under way
        self._timeouts = timeouts
        self._on_ready = on_ready
        self._on_idle = on_idle
        self._on_retired = on_retired
        self._on_reply = on_reply
        self._on_growth = on_growth
        self._on_closed = on_closed
        self.replied = False  # whether at least one reply has arrived
        self.failure = Reason.LOST  # why its request fails if it is closed
        self.heard = False  # whether lond has answered the attempt, if only by its end
        self.lost_unheard = False  # whether it was lost with a request, before the reply began
        self.vanished = False  # whether it was lost because lond's machine did not answer
        self._dialogue_timeout = timeouts.dialogue
        self._check_at = math.inf  # from then on a request is checked, unless there was a pause
        self._replied_at = 0.0
        self._transaction: Transaction | None = None
        self._socket: socket.socket
        self._keepalive: Keepalive
        self._watch: Watch | None = None
        self._alarm = loop.alarm(self._check_deadline)
        self._deadline = math.inf
        self._on_deadline: Callable[[LondConnection], None]

    @property
    def held(self) -> int:
        """Bytes held of an unsent request or an unfinished reply."""
        return self.protocol.held

    @property
    def in_flight(self) -> float:
        """Seconds since the request in flight was started; 0 without one."""
        return 0.0 if self._transaction is None else max(0.0, self._loop.now - self.request_started())

    def connect(self, *, probe: bool = False) -> None:
        """Start to connect. Callbacks may be called before this returns.

        A probe has half of the time for its dialogue: others have been silent for that time already.
        """
        self._dialogue_timeout = self._timeouts.dialogue / (2 if probe else 1)
        self._attempt = self._connector.attempt(self._connected, self.close)
        self._attempt.start()

    def start_request(self, transaction: Transaction) -> None:
        """Send the request; the connection must be Idle."""
        self._transaction = transaction
        now = self._loop.now
        self._deadline = deadline = now + self._timeouts.request
        rested = deadline < self._alarm.when  # the alarm was not set for a request
        if rested:
            self._alarm.ring_by(min(deadline, now + self._keepalive.check_interval))
        if now < self._check_at:
            self.protocol.start_request(transaction.request)
        else:
            self._start_when_due(transaction.request)
        self.lond_writable()
        if rested:
            self._keepalive.end_rest()

    def still_idle(self) -> bool:
        """Whether lond has neither closed nor sent anything unasked since the last turn of the loop.
        If it has, the connection is closed here, and no request is lost with it."""
        assert self._watch is not None
        if not self._watch.readable():
            return True
        self.lond_readable()
        return self.protocol.state is _IDLE

    def heard_since(self, when: float) -> bool:
        """Whether data has come from lond since then, by the loop's clock. Asks the kernel."""
        try:
            return self._watch is not None and self._loop.now - since_data(self._socket) >= when
        except OSError:
            return False

    def request_started(self) -> float:
        """When the last request was started, by the loop's clock."""
        return self._deadline - self._timeouts.request

    def awaits_acknowledgement(self) -> bool:
        """Whether lond's machine has not acknowledged all of the request. Asks the kernel."""
        try:
            return self._transaction is not None and unanswered(self._socket)
        except OSError:
            return False

    def retire(self) -> None:
        """Call `on_retired` instead of `on_idle` from now on."""
        self._on_idle = self._on_retired

    def close(self, why: str) -> None:
        """Close, in any state; `why` is for the log. A second time does nothing."""
        on_closed, self._on_closed = self._on_closed, _already_closed
        if on_closed is _already_closed:
            return
        self._alarm.cancel()
        self._close_socket()
        self.protocol.disconnect()
        transaction, self._transaction = self._transaction, None
        on_closed(self, why, transaction)

    def lond_readable(self) -> None:
        """Callback: the socket is readable: lond has sent data, or closed."""
        try:
            data = self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self.vanished = error.errno in _UNREACHABLE
            self.heard = self.heard or error.errno == errno.ECONNRESET
            self._lost(f"{error.strerror} in state {self.protocol.state.value}")
            return
        if not data:
            self.heard = True  # an end is an answer: lond may take no more connections
            self._lost(f"lond closed the connection in state {self.protocol.state.value}")
            return
        try:
            reply = self.protocol.receive(data)
        except ProtocolError as error:
            self.heard = True
            if isinstance(error, OutOfStep):
                self.failure = Reason.OUT_OF_STEP
            elif isinstance(error, PlainReply):
                self.replied = True  # the host can be reached
            with contextlib.suppress(OSError):
                self._socket.send(self.protocol.tls_alert)
            self.close(str(error))
            return
        drained = len(data) < RECEIVE_SIZE  # else the socket may hold more, which nobody has asked for
        if reply is not None:
            # The next transaction starts, or the connection closes, before the reply goes to the client.
            transaction, self._transaction = self._transaction, None
            assert transaction is not None
            self.replied = True
            self._replied_at = self._loop.now
            if self.protocol.state is _IDLE and (drained or self.still_idle()):
                self._on_idle(self)
            else:
                self.close("lond said more than one line in reply")
            self._on_reply(transaction, reply)
        elif self.protocol.data_to_send:
            self.heard = True
            self.lond_writable()
        elif self.protocol.state is _IDLE:
            self.heard = True
            if drained or self.still_idle():
                self._on_deadline = LondConnection._request_timed_out
                if self.protocol.ping_answer is not None:
                    self._replied_at = self._loop.now
                    self._check_at = self._replied_at + self._timeouts.sync
                self._alarm.ring_by(self._loop.now + self._keepalive.check_interval)
                self._on_ready(self)
        else:
            self._on_growth(len(data))

    def lond_writable(self) -> None:
        """Callback, also called directly: send what the socket takes, and watch for the rest."""
        protocol = self.protocol
        try:
            if sent := self._socket.send(protocol.data_to_send):
                protocol.data_sent(sent)
                if sent > LARGE_REQUEST and not self._keepalive.large:
                    self._keepalive.watch_large_request()
        except BlockingIOError:
            pass
        except OSError as error:
            self._lost(f"{error.strerror} in state {self.protocol.state.value}")
            return
        assert self._watch is not None
        if protocol.data_to_send:
            if not self._keepalive.large:
                self._keepalive.watch_large_request()
            self._watch.want(write=True)
        elif self._watch.events != READ:
            self._watch.want(write=False)

    def _start_when_due(self, request: Line) -> None:
        """Start a request, checked unless the connection has had a pause since the last check: while it
        is idle, a reply that comes late ends it."""
        now, interval = self._loop.now, self._timeouts.sync
        self._check_at = now + interval
        if now - self._replied_at >= interval:
            self.protocol.start_request(request)
        else:
            self.protocol.start_checked_request(request)

    def _connected(self, connected: socket.socket, address: str) -> None:
        """Callback: the TCP connection to `address` is there."""
        self._attempt = None
        self._socket = connected
        self._watch = self._loop.watch(connected, self.lond_readable, self.lond_writable)
        self._keepalive = Keepalive(connected, self._timeouts.peer, self._timeouts.keepalive)
        self._set_deadline(self._dialogue_timeout, LondConnection._dialogue_timed_out)
        try:
            self.protocol.connected(address)
        except ProtocolError as error:
            self.close(str(error))
            return
        self.lond_writable()

    def _close_socket(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
            self._attempt = None
        if self._watch is not None:
            self._watch.forget()
            self._watch = None
            self._socket.close()

    # Deadlines: there is one at a time, and a callback for when it has passed.

    def _set_deadline(self, seconds: float, on_deadline: Callable[[LondConnection], None]) -> None:
        self._on_deadline = on_deadline
        self._deadline = self._loop.now + seconds
        self._alarm.ring_by(self._deadline)

    def _check_deadline(self) -> None:
        """Callback of the alarm; also every `check_interval`, until the connection rests."""
        if self.protocol.state is _IDLE:
            self._keepalive.rest()  # an idle connection has no deadline
        elif self._deadline <= self._loop.now:
            self._on_deadline(self)
        elif self._keepalive.large and self._keepalive.peer_is_silent(self._loop.now):
            self._lost(
                f"nothing was acknowledged for {self._timeouts.peer:g} s: {self.protocol.state.value}"
            )
        else:
            self._alarm.ring_by(min(self._deadline, self._loop.now + self._keepalive.check_interval))

    def _lost(self, why: str) -> None:
        """Close because the other side has ended or does not answer."""
        state = self.protocol.state
        self.lost_unheard = self._transaction is not None and (
            state is not _RECEIVING or self.protocol.held == 0
        )
        self.close(why)

    def _dialogue_timed_out(self) -> None:
        self.close(
            f"no end of the dialogue within {self._dialogue_timeout:g} s: {self.protocol.state.value}"
        )

    def _request_timed_out(self) -> None:
        self.failure = Reason.REQUEST_TIMEOUT
        self.close(f"no reply within {self._timeouts.request:g} s: {self.protocol.state.value}")


def _already_closed(_: LondConnection, why: str, transaction: Transaction | None) -> None:
    raise AssertionError("a connection is closed once")
