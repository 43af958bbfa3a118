"""The transactions that wait for a connection: those of clients, and delayed ones.

A delayed transaction comes after those of clients, until it has waited for DELAYED_FIRST_AFTER seconds.
Then it takes the next free connection, if it is the only one in flight: clients lose one connection at
most.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from lonc.child.transaction import Transaction
from lonc.runtime.containers import Queue

DELAYED_FIRST_AFTER = 1.0  # seconds; a delayed transaction that waits longer goes ahead of clients

C = TypeVar("C")


class WorkQueue(Generic[C]):
    """What waits for one of the connections, which are of type C.

    While `delayed_matter` is false, the next transaction is simply that of `clients.dequeue()`.
    """

    __slots__ = ("_carry_delayed", "_delayed", "clients", "delayed_matter")

    def __init__(self) -> None:
        self.clients: Queue[Transaction] = Queue()
        self.delayed_matter = False  # one waits or is in flight; a flag costs the hot path less
        self._delayed: Queue[Transaction] = Queue()
        self._carry_delayed: set[C] = set()  # connections with a delayed transaction

    def __len__(self) -> int:
        return len(self.clients) + len(self._delayed)

    def enqueue_delayed(self, transaction: Transaction, since: float) -> None:
        """Add a delayed transaction that has waited since then."""
        self._delayed.enqueue(transaction, since)
        self.delayed_matter = True

    def drop(self, transaction: Transaction) -> None:
        """Take it out. A delayed one fails by that."""
        self.clients.remove(transaction)
        if self._delayed.remove(transaction):
            transaction.fail("it is not wanted any more")

    def pop_all(self) -> list[Transaction]:
        """Take out all: those of clients first, the oldest first."""
        return [*iter(self.clients.dequeue, None), *iter(self._delayed.dequeue, None)]

    def next_for(self, connection: C, now: float) -> Transaction | None:
        """Take out the transaction to start on `connection`, which is idle; None if none waits.

        A connection that has carried a delayed transaction serves a client next.
        """
        served = connection in self._carry_delayed
        self._carry_delayed.discard(connection)
        if self.clients:
            overdue = self._delayed.due(DELAYED_FIRST_AFTER) <= now
            if not overdue or served or self._carry_delayed:
                return self.clients.dequeue()
        transaction = self._delayed.dequeue()
        if transaction is None:
            self.delayed_matter = bool(self._carry_delayed)
            return None
        self._carry_delayed.add(connection)
        transaction.since = now  # its latency is lond's alone: no client has waited
        return transaction

    def connection_ended(self, connection: C) -> None:
        """`connection` carries nothing any more."""
        self._carry_delayed.discard(connection)
