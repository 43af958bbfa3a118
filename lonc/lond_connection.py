"""A TCP socket around a LondProtocol: connects, sends, receives, and ends with one sentence."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from lonc.errors import ProtocolError
from lonc.event_loop import READ, WRITE, EventLoop, Watch
from lonc.lond_protocol import LondProtocol, State
from lonc.transaction import Transaction

RECEIVE_SIZE = 65536

_IDLE = State.IDLE  # looked up once: every reply asks

Address = tuple[str, int]


class LondConnection:
    """One connection to a lond; it carries one transaction at a time.

    `address` is None where the table names none: then `connect` fails at once. Callbacks:
    `on_ready(connection)`, the dialogue has come to Idle; `on_idle(connection)`, the next transaction
    may start; `on_reply(transaction, reply)`, after that; and once
    `on_closed(connection, why, transaction)`, with what was in flight.
    """

    __slots__ = (
        "_address",
        "_bind_address",
        "_loop",
        "_on_closed",
        "_on_idle",
        "_on_ready",
        "_on_reply",
        "_protocol",
        "_socket",
        "_transaction",
        "_watch",
    )

    def __init__(
        self,
        loop: EventLoop,
        protocol: LondProtocol,
        address: Address | None,
        bind_address: str | None,
        *,
        on_ready: Callable[[LondConnection], None],
        on_idle: Callable[[LondConnection], None],
        on_reply: Callable[[Transaction, bytes], None],
        on_closed: Callable[[LondConnection, str, Transaction | None], None],
    ) -> None:
        self._loop = loop
        self._protocol = protocol
        self._address = address
        self._bind_address = bind_address
        self._on_ready = on_ready
        self._on_idle = on_idle
        self._on_reply = on_reply
        self._on_closed = on_closed
        self._transaction: Transaction | None = None
        self._socket: socket.socket
        self._watch: Watch | None = None

    @property
    def state(self) -> State:
        return self._protocol.state

    def connect(self) -> None:
        """Start towards Idle. The callbacks may come before this returns."""
        if self._address is None:
            self.close("no address in the table")
            return
        try:
            self._socket = socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self.close(f"cannot make a socket: {error.strerror}")
            return
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._bind_address is not None:
                self._socket.bind((self._bind_address, 0))
            refusal = self._socket.connect_ex(self._address)
        except OSError as error:
            self._socket.close()
            self.close(f"cannot connect from {self._bind_address}: {error.strerror}")
            return
        self._watch = self._loop.watch(self._socket, self.lond_readable, self._connected, events=WRITE)
        if refusal not in (0, errno.EINPROGRESS):
            self._refused(refusal)

    def start_request(self, transaction: Transaction) -> None:
        """Send a request and hear its reply; the connection must be Idle."""
        self._transaction = transaction
        self._protocol.start_request(transaction.request)
        self.lond_writable()

    def still_idle(self) -> bool:
        """Look once more whether lond has said something unasked, or closed: then the connection ends
        here, instead of under the next request."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        self.lond_readable()
        return False

    def close(self, why: str) -> None:
        """End the connection, from any state; `why` is for the log. A second time does nothing."""
        on_closed, self._on_closed = self._on_closed, _closed_already
        if on_closed is _closed_already:
            return
        if self._watch is not None:
            self._watch.forget()
            self._socket.close()
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
            self.close(str(error))
            return
        drained = len(data) < RECEIVE_SIZE  # else there may be more in the socket, and due to nobody
        if reply is not None:
            # To other work, or to its end, before the reply goes up.
            transaction, self._transaction = self._transaction, None
            assert transaction is not None
            if self._protocol.state is _IDLE and (drained or self.still_idle()):
                self._on_idle(self)
            else:
                self.close("lond said more than one line in reply")
            self._on_reply(transaction, reply)
        elif self._protocol.data_to_send():
            self.lond_writable()
        elif self._protocol.state is _IDLE and (drained or self.still_idle()):
            self._on_ready(self)

    def lond_writable(self) -> None:
        """Callback, and the first try: send what there is, wait only with what would not go."""
        assert self._watch is not None
        data = self._protocol.data_to_send()
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.close(f"{error.strerror} in state {self.state.value}")
            return
        if sent:
            self._protocol.data_sent(sent)
        if sent < len(data):
            self._watch.want(write=True)
        elif self._watch.events != READ:
            self._watch.want(write=False)

    def _connected(self) -> None:
        """Callback: the attempt to connect has ended."""
        assert self._watch is not None
        refusal = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if refusal:
            self._refused(refusal)
            return
        self._watch.on_writable = self.lond_writable
        self._watch.want(read=True)
        self.lond_writable()

    def _refused(self, refusal: int) -> None:
        assert self._address is not None
        host, port = self._address
        self.close(f"cannot connect to {host} port {port}: {os.strerror(refusal)}")


def _closed_already(_: LondConnection, why: str, transaction: Transaction | None) -> None:
    raise AssertionError("a connection is closed once")
