"""Which transaction goes on which connection, and when to give up.

The pool opens another connection when a transaction must wait and there are fewer than the most it
may have. It is told what happened, and never touches a socket or a clock itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Generic, Protocol, TypeVar

from lonc.containers import Queue, Stack
from lonc.transaction import Transaction


class HostState(Enum):
    """How the host is doing, in the words of the status report."""

    CONNECTING = "connecting"
    READY = "ready"
    DEAD = "DEAD"
    DRAINING = "draining"


class Connection(Protocol):
    """What the pool asks of a LondConnection; each call may come straight back in with its end."""

    def connect(self) -> None: ...
    def start_request(self, transaction: Transaction) -> None: ...
    def still_idle(self) -> bool: ...
    def close(self, why: str) -> None: ...


C = TypeVar("C", bound=Connection)


class Pool(Generic[C]):
    """The connections to one host and the transactions that wait for one.

    A connection of the pool is attempting, idle, or else busy. `on_change(why)` is called after
    connections, retries or state have changed; `why` is None where that needs no telling. There may be
    `max_connections()` at a time.
    """

    def __init__(
        self,
        max_connections: Callable[[], int],
        connect_retries: int,
        make_lond_connection: Callable[[], C],
        on_change: Callable[[str | None], None],
    ) -> None:
        self.retries_remaining = connect_retries
        self.done = 0
        self.failed = 0
        self._max_connections = max_connections
        self._connect_retries = connect_retries
        self._make_lond_connection = make_lond_connection
        self._on_change = on_change
        self._connections: set[C] = set()
        self._attempting: set[C] = set()
        self._idle: Stack[C] = Stack()
        self._waiting: Queue[Transaction] = Queue()
        self._draining = False
        self._shut: str | None = None

    @property
    def state(self) -> HostState:
        if self._draining:
            return HostState.DRAINING
        if self._established:
            return HostState.READY
        if self.retries_remaining == 0:
            return HostState.DEAD
        if self._attempting or self.retries_remaining < self._connect_retries:
            return HostState.CONNECTING
        return HostState.READY

    @property
    def waiting(self) -> int:
        """How many transactions wait for a connection."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[C]:
        return iter(self._connections)

    def __len__(self) -> int:
        """How many connections there are, the attempts among them."""
        return len(self._connections)

    def open(self) -> None:
        """Make a connection before anybody asks for one, as the original does at its start."""
        if not self._connections:
            self._attempt()

    def reset_retries(self) -> None:
        """Forget past failures and try to connect now."""
        self.retries_remaining = self._connect_retries
        if self._connections:
            self._on_change(None)
        else:
            self._attempt()

    def queue_transaction(self, transaction: Transaction) -> None:
        """Start it on the connection used last, or let it wait and perhaps open another for it."""
        while (connection := self._idle.pop()) is not None:
            if connection.still_idle():
                connection.start_request(transaction)
                return
        self._waiting.enqueue(transaction)
        if len(self._connections) < self._max_connections():
            self._attempt()

    def drop_transaction(self, transaction: Transaction) -> None:
        """Nobody waits for it any more: if it has not been started, it never will."""
        self._waiting.remove(transaction)

    def connection_ready(self, connection: C) -> None:
        """An attempt has come to Idle."""
        first = not self._established
        self._attempting.remove(connection)
        self.retries_remaining = self._connect_retries
        self._on_change("connected" if first else None)
        self.server_to_idle(connection)

    def complete_transaction(self, transaction: Transaction, reply: bytes) -> None:
        """A reply has come, and its connection has gone on to other work or ended."""
        self.done += 1
        transaction.complete(reply)

    def server_to_idle(self, connection: C) -> None:
        """The connection is ready for the next transaction, or to wait for one."""
        transaction = self._waiting.dequeue()
        if transaction is None:
            self._idle.push(connection)
        else:
            connection.start_request(transaction)

    def connection_closed(self, connection: C, why: str, transaction: Transaction | None) -> None:
        """A connection, or an attempt at one, has ended with `transaction` in flight.

        An attempt counts as failed if no other connection shows that the host lives; what waits is
        failed only if none is on its way either. A connection that was lost is replaced if something
        waits.
        """
        self._connections.remove(connection)
        was_established = connection not in self._attempting
        lost = [] if transaction is None else [transaction]
        if was_established:
            self._idle.remove(connection)
            why = f"lost a connection: {why}"
        else:
            self._attempting.remove(connection)
            why = f"an attempt failed: {why}"
            if not self._established:
                self.retries_remaining = max(0, self.retries_remaining - 1)
            if not self._connections:
                lost += self._take_waiting()
        self._on_change(why)
        self._fail(lost, why)
        if was_established and self._waiting and len(self._connections) < self._max_connections():
            self._attempt()

    def drain(self) -> None:
        """Say so; what runs or waits, or is still asked, goes on."""
        if not self._draining:
            self._draining = True
            self._on_change("asked to leave")

    def close_idle(self) -> None:
        """Close what has nothing to do."""
        while (connection := self._idle.pop()) is not None:
            connection.close("draining")

    def shut(self, why: str) -> None:
        """Fail what runs, what waits, and whatever is still asked."""
        self._shut = why
        self.close_idle()  # else what a client asks next would still be sent on one of them
        for connection in list(self._connections):
            connection.close(why)
        self._fail(self._take_waiting(), why)

    @property
    def _established(self) -> bool:
        return len(self._connections) > len(self._attempting)

    def _attempt(self) -> None:
        if self._shut is not None:
            self._fail(self._take_waiting(), self._shut)
            return
        connection = self._make_lond_connection()
        self._connections.add(connection)
        self._attempting.add(connection)
        self._on_change(None)
        connection.connect()

    def _take_waiting(self) -> list[Transaction]:
        waiting = list(self._waiting)
        self._waiting = Queue()
        return waiting

    def _fail(self, transactions: list[Transaction], why: str) -> None:
        self.failed += len(transactions)
        for transaction in transactions:
            transaction.fail(why)
