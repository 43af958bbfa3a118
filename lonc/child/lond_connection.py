"""One connection to lond: a TCP socket around a LondProtocol."""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable
from dataclasses import dataclass

from lonc.child.connector import Attempt, Connector
from lonc.child.transaction import Transaction
from lonc.errors import ProtocolError
from lonc.runtime.event_loop import READ, EventLoop, Watch
from lonc.runtime.line_buffer import RECEIVE_SIZE, Line
from lonc.wire.lond_protocol import LondProtocol, State

_IDLE = State.IDLE  # a global is found faster than a member, and every reply needs it


@dataclass(frozen=True)
class Timeouts:
    """In seconds."""

    dialogue: float  # from connected to Idle
    request: float  # from the start of a request to the end of its reply


class LondConnection:
    """Connects, carries one transaction at a time, and closes at the first error or timeout.

    `connector` makes its TCP connection.

    Callbacks:

    - `on_ready(connection)`: the dialogue has come to Idle;
    - `on_idle(connection)`: a reply has arrived, the next transaction may start;
    - `on_reply(transaction, reply)`: after that, or after `on_closed` if the connection ended with it;
    - `on_growth(count)`: `count` more bytes of an unfinished reply are held;
    - `on_closed(connection, why, transaction)`: once, with the transaction in flight or None.
    """

    __slots__ = (
        "_alarm",
        "_attempt",
        "_connector",
        "_deadline",
        "_loop",
        "_on_closed",
        "_on_deadline",
        "_on_growth",
        "_on_idle",
        "_on_ready",
        "_on_reply",
        "_protocol",
        "_socket",
        "_timeouts",
        "_transaction",
        "_watch",
        "replied",
        "timed_out",
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
        on_reply: Callable[[Transaction, Line], None],
        on_growth: Callable[[int], None],
        on_closed: Callable[[LondConnection, str, Transaction | None], None],
    ) -> None:
        self._loop = loop
        self._protocol = protocol
        self._connector = connector
        self._attempt: Attempt | None = None  # to connect, while that is under way
        self._timeouts = timeouts
        self._on_ready = on_ready
        self._on_idle = on_idle
        self._on_reply = on_reply
        self._on_growth = on_growth
        self._on_closed = on_closed
        self.replied = False  # whether at least one reply has arrived
        self.timed_out = False  # whether it was closed because a reply did not arrive in time
        self._transaction: Transaction | None = None
        self._socket: socket.socket
        self._watch: Watch | None = None
        self._alarm = loop.alarm(self._check_deadline)
        self._deadline = math.inf
        self._on_deadline: Callable[[LondConnection], None]

    @property
    def state(self) -> State:
        return self._protocol.state

    @property
    def mode(self) -> str:
        """How the key is exchanged: a value of loncKeyMode other than auto."""
        return self._protocol.mode

    @property
    def lond_version(self) -> str | None:
        """lond's version; None in the dialogue of 2003, which does not ask for it."""
        return self._protocol.lond_version

    @property
    def held(self) -> int:
        """Bytes held of an unsent request or an unfinished reply."""
        return self._protocol.held

    def connect(self) -> None:
        """Start to connect. Callbacks may be called before this returns."""
        self._attempt = self._connector.attempt(self._connected, self.close)
        self._attempt.start()

    def start_request(self, transaction: Transaction) -> None:
        """Send the request; the connection must be Idle."""
        self._transaction = transaction
        self._deadline = deadline = self._loop.now + self._timeouts.request
        if deadline < self._alarm.when:  # (asked here too: else each would pay a call)
            self._alarm.ring_by(deadline)
        self._protocol.start_request(transaction.request)
        self.lond_writable()

    def still_idle(self) -> bool:
        """Whether lond has neither closed nor sent anything unasked since the last turn of the loop.
        If it has, the connection is closed here, and no request is lost with it."""
        assert self._watch is not None
        if not self._watch.readable():
            return True
        self.lond_readable()
        return self._protocol.state is _IDLE

    def close(self, why: str) -> None:
        """Close, in any state; `why` is for the log. A second time does nothing."""
        on_closed, self._on_closed = self._on_closed, _already_closed
        if on_closed is _already_closed:
            return
        self._alarm.cancel()
        self._close_socket()
        self._protocol.disconnect()
        transaction, self._transaction = self._transaction, None
        on_closed(self, why, transaction)

    def lond_readable(self) -> None:
        """Callback: the socket is readable: lond has sent data, or closed."""
        try:
            data = self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self.close(f"{error.strerror} in state {self.state.value}")
            return
        if not data:
            self.close(f"lond closed the connection in state {self.state.value}")
            return
        try:
            reply = self._protocol.receive(data)
        except ProtocolError as error:
            with contextlib.suppress(OSError):
                self._socket.send(self._protocol.tls_alert)
            self.close(str(error))
            return
        drained = len(data) < RECEIVE_SIZE  # else the socket may hold more, which nobody has asked for
        if reply is not None:
            # The next transaction starts, or the connection closes, before the reply goes to the client.
            transaction, self._transaction = self._transaction, None
            assert transaction is not None
            self.replied = True
            if self._protocol.state is _IDLE and (drained or self.still_idle()):
                self._on_idle(self)
            else:
                self.close("lond said more than one line in reply")
            self._on_reply(transaction, reply)
        elif self._protocol.data_to_send:
            self.lond_writable()
        elif self._protocol.state is _IDLE:
            if drained or self.still_idle():
                self._on_deadline = LondConnection._request_timed_out
                self._on_ready(self)
        else:
            self._on_growth(len(data))

    def lond_writable(self) -> None:
        """Callback, also called directly: send what the socket takes, and watch for the rest."""
        protocol = self._protocol
        try:
            if sent := self._socket.send(protocol.data_to_send):
                protocol.data_sent(sent)
        except BlockingIOError:
            pass
        except OSError as error:
            self.close(f"{error.strerror} in state {self.state.value}")
            return
        assert self._watch is not None
        if protocol.data_to_send:
            self._watch.want(write=True)
        elif self._watch.events != READ:
            self._watch.want(write=False)

    def _connected(self, connected: socket.socket, address: str) -> None:
        """Callback: the TCP connection to `address` is there."""
        self._attempt = None
        self._socket = connected
        self._watch = self._loop.watch(connected, self.lond_readable, self.lond_writable)
        self._set_deadline(self._timeouts.dialogue, LondConnection._dialogue_timed_out)
        try:
            self._protocol.connected(address)
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
        """Callback of the alarm. It may have been set for an earlier deadline, which was met."""
        if self._protocol.state is _IDLE:
            return  # an idle connection has no deadline
        if self._deadline <= self._loop.now:
            self._on_deadline(self)
        else:
            self._alarm.ring_by(self._deadline)

    def _dialogue_timed_out(self) -> None:
        self.close(f"no end of the dialogue within {self._timeouts.dialogue:g} s: {self.state.value}")

    def _request_timed_out(self) -> None:
        self.timed_out = True
        self.close(f"no reply within {self._timeouts.request:g} s: {self.state.value}")


def _already_closed(_: LondConnection, why: str, transaction: Transaction | None) -> None:
    raise AssertionError("a connection is closed once")
