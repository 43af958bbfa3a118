"""A TCP socket around a LondProtocol: connects, sends, receives, and ends with one sentence."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lonc.child.resolver import Address, Found
from lonc.child.transaction import Transaction
from lonc.errors import ProtocolError
from lonc.runtime.event_loop import READ, WRITE, EventLoop, Watch
from lonc.runtime.line_buffer import Line
from lonc.wire.lond_protocol import LondProtocol, State

RECEIVE_SIZE = 65536

_IDLE = State.IDLE  # looked up once: every reply asks


@dataclass(frozen=True)
class Timeouts:
    """In seconds."""

    connect: float  # for each address, and for finding them
    dialogue: float  # from connected to Idle
    request: float  # from its first byte to the end of its reply


class LondConnection:
    """One connection to a lond; it carries one transaction at a time.

    `find` calls back with the addresses to be tried. Whatever takes longer than its timeout ends the
    connection. Callbacks: `on_ready(connection)`, the dialogue has come to Idle; `on_idle(connection)`,
    the next transaction may start; `on_reply(transaction, reply)`, after that; `on_held(count)`, so many
    more bytes of an unfinished reply are held; and once `on_closed(connection, why, transaction)`, with
    what was in flight.
    """

    __slots__ = (
        "_addresses",
        "_alarm",
        "_bind_address",
        "_deadline",
        "_failures",
        "_find",
        "_loop",
        "_on_closed",
        "_on_held",
        "_on_idle",
        "_on_late",
        "_on_ready",
        "_on_reply",
        "_peer",
        "_protocol",
        "_socket",
        "_target",
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
        find: Callable[[Found], None],
        bind_address: str | None,
        timeouts: Timeouts,
        *,
        on_ready: Callable[[LondConnection], None],
        on_idle: Callable[[LondConnection], None],
        on_reply: Callable[[Transaction, Line], None],
        on_held: Callable[[int], None],
        on_closed: Callable[[LondConnection, str, Transaction | None], None],
    ) -> None:
        self._loop = loop
        self._protocol = protocol
        self._find = find
        self._bind_address = bind_address
        self._timeouts = timeouts
        self._on_ready = on_ready
        self._on_idle = on_idle
        self._on_reply = on_reply
        self._on_held = on_held
        self._on_closed = on_closed
        self.replied = False  # at least once
        self.timed_out = False
        self._transaction: Transaction | None = None
        self._addresses: deque[Address] = deque()  # still to be tried
        self._failures: list[str] = []  # what was wrong with those that were
        self._peer = ""  # its address, and with its port:
        self._target = ""
        self._socket: socket.socket
        self._watch: Watch | None = None
        self._alarm = loop.alarm(self._look_at_deadline)
        self._deadline = math.inf
        self._on_late: Callable[[LondConnection], None]

    @property
    def state(self) -> State:
        return self._protocol.state

    @property
    def mode(self) -> str:
        """How it comes to its key: one of loncKeyMode, but auto."""
        return self._protocol.mode

    @property
    def lond_version(self) -> str | None:
        """As lond says, where it is asked."""
        return self._protocol.lond_version

    @property
    def held(self) -> int:
        """Bytes that we hold of a request or a reply."""
        return self._protocol.held

    def connect(self) -> None:
        """Start towards Idle. The callbacks may come before this returns."""
        self._expect_within(self._timeouts.connect, LondConnection._lookup_late)
        self._find(self._found)

    def start_request(self, transaction: Transaction) -> None:
        """Send a request and hear its reply; the connection must be Idle."""
        self._transaction = transaction
        self._deadline = deadline = self._loop.now + self._timeouts.request
        if deadline < self._alarm.when:  # (asked here too: else each would pay a call)
            self._alarm.ring_by(deadline)
        self._protocol.start_request(transaction.request)
        self.lond_writable()

    def still_idle(self) -> bool:
        """Look once more whether lond has said something unasked, or closed: then the connection ends
        here, instead of under the next request."""
        assert self._watch is not None
        if not self._watch.readable():
            return True
        self.lond_readable()
        return self._protocol.state is _IDLE

    def let_go(self, why: str) -> None:
        self.close(why)

    def close(self, why: str) -> None:
        """End the connection, from any state; `why` is for the log. A second time does nothing."""
        on_closed, self._on_closed = self._on_closed, _closed_already
        if on_closed is _closed_already:
            return
        self._alarm.cancel()
        self._drop_socket()
        self._protocol.disconnect()
        transaction, self._transaction = self._transaction, None
        on_closed(self, why, transaction)

    def lond_readable(self) -> None:
        """Callback: lond has said something, or closed."""
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
        drained = len(data) < RECEIVE_SIZE  # else there may be more in the socket, and due to nobody
        if reply is not None:
            # To other work, or to its end, before the reply goes up.
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
                self._on_late = LondConnection._reply_late
                self._on_ready(self)
        else:
            self._on_held(len(data))

    def lond_writable(self) -> None:
        """Callback, and the first try: send what there is, wait only with what would not go."""
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

    def _found(self, addresses: Sequence[Address], why_none: str) -> None:
        """Callback: where lond may be."""
        if self._protocol.state is State.DISCONNECTED:
            return  # too late
        self._addresses.extend(addresses)
        if why_none:
            self._failures.append(why_none)
        self._try_next()

    def _try_next(self) -> None:
        """Connect to the next address, or end with what was wrong with each."""
        while self._addresses:
            family, address = self._addresses.popleft()
            self._peer = address[0]
            self._target = f"{address[0]} port {address[1]}"
            try:
                self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError as error:
                self._failures.append(f"cannot make a socket: {error.strerror}")
                continue
            try:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                if self._bind_address is not None:
                    self._socket.bind((self._bind_address, 0))
            except OSError as error:
                self._socket.close()
                self._failures.append(f"cannot connect from {self._bind_address}: {error.strerror}")
                continue
            refusal = self._socket.connect_ex(address)
            if refusal not in (0, errno.EINPROGRESS):
                self._socket.close()
                self._failures.append(f"cannot connect to {self._target}: {os.strerror(refusal)}")
                continue
            self._watch = self._loop.watch(
                self._socket, self.lond_readable, self._connected, events=WRITE
            )
            self._expect_within(self._timeouts.connect, LondConnection._connect_late)
            return
        self.close("; ".join(self._failures))

    def _connected(self) -> None:
        """Callback: the attempt to connect has ended."""
        assert self._watch is not None
        refusal = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if refusal:
            self._not_there(os.strerror(refusal))
            return
        self._expect_within(self._timeouts.dialogue, LondConnection._dialogue_late)
        try:
            self._protocol.connected(self._peer)
        except ProtocolError as error:
            self.close(str(error))
            return
        self._watch.on_writable = self.lond_writable
        self._watch.want(read=True)
        self.lond_writable()

    def _not_there(self, why: str) -> None:
        self._failures.append(f"cannot connect to {self._target}: {why}")
        self._drop_socket()
        self._try_next()

    def _drop_socket(self) -> None:
        if self._watch is not None:
            self._watch.forget()
            self._watch = None
            self._socket.close()

    # What is awaited, and what becomes of it if it does not come.

    def _expect_within(self, seconds: float, on_late: Callable[[LondConnection], None]) -> None:
        self._on_late = on_late
        self._deadline = self._loop.now + seconds
        self._alarm.ring_by(self._deadline)

    def _look_at_deadline(self) -> None:
        """Callback of the alarm, which may have been set for something that is over."""
        if self._protocol.state is _IDLE:
            return  # nothing is awaited
        if self._deadline <= self._loop.now:
            self._on_late(self)
        else:
            self._alarm.ring_by(self._deadline)

    def _lookup_late(self) -> None:
        self.close(f"cannot find its address: no answer within {self._timeouts.connect:g} s")

    def _connect_late(self) -> None:
        self._not_there(f"no answer within {self._timeouts.connect:g} s")

    def _dialogue_late(self) -> None:
        self.close(f"no end of the dialogue within {self._timeouts.dialogue:g} s: {self.state.value}")

    def _reply_late(self) -> None:
        self.timed_out = True
        self.close(f"no reply within {self._timeouts.request:g} s: {self.state.value}")


def _closed_already(_: LondConnection, why: str, transaction: Transaction | None) -> None:
    raise AssertionError("a connection is closed once")
