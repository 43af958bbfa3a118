"""Which transaction goes on which connection, and when to give up.

The pool opens another connection when a transaction must wait and there are fewer than the most it
may have, and tries again by itself, after growing delays, while it has none because they failed. It is
told what happened, and never touches a socket.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

from lonc.child.transaction import Transaction
from lonc.monitoring.statistics import Reason, Statistics
from lonc.runtime.backoff import Backoff
from lonc.runtime.containers import Queue, Stack
from lonc.runtime.line_buffer import Line

PROVEN_AFTER = 1.0  # seconds from the end of its dialogue; a connection that lasts so long is a success


class HostState(Enum):
    """How the host is doing, in the words of the status report."""

    CONNECTING = "connecting"
    READY = "ready"
    DEAD = "DEAD"
    DISABLED = "disabled"
    DRAINING = "draining"


class Connection(Protocol):
    """What the pool asks of a LondConnection; each call may come straight back in with its end."""

    replied: bool  # it has brought a reply
    timed_out: bool  # it has ended because a reply did not come in time

    def connect(self) -> None: ...
    def start_request(self, transaction: Transaction) -> None: ...
    def still_idle(self) -> bool: ...
    def close(self, why: str) -> None: ...


class Alarm(Protocol):
    """Calls back no later than it was set for."""

    def ring_by(self, when: float) -> None: ...


class Clock(Protocol):
    """The time of this turn of the loop, in seconds, and what wakes us later."""

    now: float

    def alarm(self, callback: Callable[[], None]) -> Alarm: ...


Refusal = tuple[str, Reason]

_DEAD = ("the host is DEAD", Reason.DEAD)

C = TypeVar("C", bound=Connection)
T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How often, and how long; times in seconds."""

    connect_retries: int  # failed attempts in a row that make the host DEAD
    queue_timeout: float  # of a transaction that waits for a connection
    idle_timeout: float  # of a connection that nothing waits for


class Pool(Generic[C]):
    """The connections to one host and the transactions that wait for one.

    A connection of the pool is attempting, idle, or else busy. One that ends right after its dialogue,
    without a single reply, was a failed attempt too. `on_change(why)` is called after connections,
    retries or state have changed; `why` is None where that needs no telling. There may be
    `max_connections` at a time, or `descriptors()` where that is less. `backoff` gives the delays
    between attempts that nobody waits for. What becomes of transactions is counted in `statistics`.
    """

    def __init__(
        self,
        clock: Clock,
        max_connections: int,
        descriptors: Callable[[], int],
        patience: Patience,
        backoff: Backoff,
        statistics: Statistics,
        make_lond_connection: Callable[[], C],
        on_change: Callable[[str | None], None],
    ) -> None:
        self.retries_remaining = patience.connect_retries
        self._clock = clock
        self._alarm = clock.alarm(self._tick)
        self._max_connections = max_connections
        self._descriptors = descriptors
        self._patience = patience
        self._backoff = backoff
        self._statistics = statistics
        self._make_lond_connection = make_lond_connection
        self._on_change = on_change
        self._connections: set[C] = set()
        self._attempting: set[C] = set()
        self._unproven: Queue[C] = Queue()
        self._idle: Stack[C] = Stack()
        self._waiting: Queue[Transaction] = Queue()
        self._delayed: Queue[Transaction] = Queue()  # only when nothing else waits
        self._retry_at = math.inf  # after a failure
        self._draining = False
        self._disabled = False
        self._refusing: Refusal | None = None  # why no connection is made
        self._refusal: Refusal | None = None  # why no transaction is taken; see `_changed`

    @property
    def state(self) -> HostState:
        if self._draining:
            return HostState.DRAINING
        if self._disabled:
            return HostState.DISABLED
        if self._established:
            return HostState.READY
        if self._dead:
            return HostState.DEAD
        if self._attempting or self.retries_remaining < self._patience.connect_retries:
            return HostState.CONNECTING
        return HostState.READY

    @property
    def waiting(self) -> int:
        """How many transactions wait for a connection."""
        return len(self._waiting)

    @property
    def attempting(self) -> int:
        """How many connections are on their way to Idle."""
        return len(self._attempting)

    @property
    def census(self) -> tuple[HostState, int, int, int]:
        """Differs whenever a connection has come, gone, or changed to or from Idle."""
        return self.state, len(self._connections), len(self._attempting), len(self._idle)

    @property
    def oldest_wait(self) -> float:
        """For how many seconds one of them does already."""
        longest = self._waiting.oldest()
        return 0.0 if longest is None else self._clock.now - longest[1]

    @property
    def busy(self) -> int:
        """How many connections carry a transaction, whoever still listens."""
        return len(self._connections) - len(self._attempting) - len(self._idle)

    def __iter__(self) -> Iterator[C]:
        return iter(self._connections)

    def __len__(self) -> int:
        """How many connections there are, the attempts among them."""
        return len(self._connections)

    def open(self) -> None:
        """Make a connection before anybody asks for one, as the original does at its start."""
        if not self._connections and self._refusing is None:
            self._attempt()

    def reset_retries(self) -> None:
        """Forget past failures and try to connect now."""
        self.retries_remaining = self._patience.connect_retries
        self._retry_at = math.inf
        self._backoff.reset()
        if self._connections or self._refusing is not None:
            self._changed(None)
            self._attempt_for_who_waits()
        else:
            self._attempt()

    def queue_transaction(self, transaction: Transaction) -> None:
        """Start it on the connection used last, or let it wait and perhaps open another for it."""
        transaction.since = now = self._clock.now
        while (connection := self._idle.pop()) is not None:
            if connection.still_idle():
                connection.start_request(transaction)
                return
        if self._refusal is not None:
            self._fail([transaction], *self._refusal)
            return
        self._waiting.enqueue(transaction, now)
        self._alarm.ring_by(now + self._patience.queue_timeout)
        # (Asked here too: else each would pay a call.)
        if len(self._connections) < self._max_connections:
            self._attempt_for_who_waits()

    def queue_delayed(self, transaction: Transaction) -> None:
        """Start it when nothing else is to be done; it may wait for long, but not for a dead host."""
        if self._refusal is not None:
            transaction.fail(self._refusal[0])
            return
        self._delayed.enqueue(transaction, self._clock.now)
        while (connection := self._idle.pop()) is not None:
            if connection.still_idle():
                self.server_to_idle(connection)
                return
        self._attempt_for_who_waits()

    def drop_transaction(self, transaction: Transaction) -> None:
        """Nobody waits for it any more: if it has not been started, it never will."""
        self._waiting.remove(transaction)
        if self._delayed.remove(transaction):
            transaction.fail("it is not wanted any more")

    def connection_ready(self, connection: C) -> None:
        """An attempt has come to Idle."""
        first = not self._established
        self._attempting.remove(connection)
        self._retry_at = math.inf
        now = self._clock.now
        self._unproven.enqueue(connection, now)
        self._alarm.ring_by(now + PROVEN_AFTER)
        self._changed("connected" if first else None)
        self.server_to_idle(connection)
        self._attempt_for_who_waits()

    def complete_transaction(self, transaction: Transaction, reply: Line) -> None:
        """A reply has come, and its connection has gone on to other work or ended."""
        self._statistics.replied(
            self._clock.now, transaction.since, len(transaction.request), len(reply)
        )
        transaction.complete(reply)

    def server_to_idle(self, connection: C) -> None:
        """The connection is ready for the next transaction, or to wait for one."""
        transaction = self._waiting.dequeue()
        if transaction is None and (transaction := self._delayed.dequeue()) is not None:
            transaction.since = self._clock.now  # nobody has waited for it
        if transaction is not None:
            connection.start_request(transaction)
        elif self._refusing is not None:
            self._let_go(connection, self._refusing[0])
        else:
            now = self._clock.now
            self._idle.push(connection, now)
            self._alarm.ring_by(now + self._patience.idle_timeout)

    def connection_closed(self, connection: C, why: str, transaction: Transaction | None) -> None:
        """A connection, or an attempt at one, has ended with `transaction` in flight.

        An attempt counts as failed if no other connection shows that the host lives; what waits is
        failed if none is on its way either, or if the host is DEAD by that. A connection that was lost
        is replaced if something waits.
        """
        lost = [] if transaction is None else [transaction]
        how = Reason.REQUEST_TIMEOUT if connection.timed_out else Reason.LOST
        if connection not in self._connections:  # we have closed it ourselves
            self._fail(lost, why, how)
            return
        self._connections.remove(connection)
        self._idle.remove(connection)
        attempted = connection in self._attempting
        self._attempting.discard(connection)
        failed = attempted
        if self._unproven.remove(connection):
            if connection.replied:
                self._proven()
            else:
                failed = True
        why = f"an attempt failed: {why}" if attempted else f"lost a connection: {why}"
        unserved: list[Transaction] = []
        if failed:
            if not self._established:
                self.retries_remaining = max(0, self.retries_remaining - 1)
            self._retry_after_a_while()
            if not self._connections or self._dead:
                unserved = self._take_waiting()
        self._changed(why)
        self._fail(lost, why, how)
        self._fail(unserved, why, Reason.UNREACHABLE)
        self._attempt_for_who_waits()

    def drain(self) -> None:
        """Say so; what runs or waits, or is still asked, goes on."""
        if not self._draining:
            self._draining = True
            self._changed("asked to leave")

    def disable(self) -> None:
        """Take nothing, and connect no more; what is in flight goes on."""
        self._disabled = True
        self._refuse("the host is disabled", Reason.DISABLED)

    def enable(self) -> None:
        """Go on as at the start."""
        if self._disabled:
            self._disabled, self._refusing = False, None
            self.reset_retries()

    def close_idle(self) -> None:
        """Close what has nothing to do."""
        while (connection := self._idle.pop()) is not None:
            self._let_go(connection, "it is not needed")

    def shut(self, why: str) -> None:
        """Fail what runs, what waits, and whatever is still asked."""
        self._refuse(why, Reason.STOPPED)
        for connection in list(self._connections):
            connection.close(why)

    @property
    def _established(self) -> bool:
        return len(self._connections) > len(self._attempting)

    @property
    def _dead(self) -> bool:
        return self.retries_remaining == 0 and not self._established

    def _refuse(self, why: str, reason: Reason) -> None:
        self._refusing = why, reason
        self._retry_at = math.inf
        self._changed(None)
        self.close_idle()
        self._fail(self._take_waiting(), why, reason)

    def _let_go(self, connection: C, why: str) -> None:
        self._connections.remove(connection)
        if self._unproven.remove(connection):
            self._proven()  # that it does not last is our doing
        self._changed(None)
        connection.close(why)

    def _changed(self, why: str | None) -> None:
        """Connections, retries or state have: see what that means for who comes, and tell it."""
        self._refusal = _DEAD if self._refusing is None and self._dead else self._refusing
        self._on_change(why)

    def _proven(self) -> None:
        self._backoff.reset()
        if self.retries_remaining < self._patience.connect_retries:
            self.retries_remaining = self._patience.connect_retries
            self._changed(None)

    def _retry_after_a_while(self) -> None:
        if self._refusing is None and not self._draining and self._retry_at == math.inf:
            self._retry_at = self._clock.now + self._backoff.next_delay()
            self._alarm.ring_by(self._retry_at)

    def _attempt_for_who_waits(self) -> None:
        """One at a time until the host is known to live, then as many as wait; beside connections that
        serve not right after a failure, but a little later."""
        if not self._connections and (self._waiting or self._delayed):
            self._attempt()
        while (
            self._has_room()
            and len(self._waiting) > len(self._attempting)
            and self._established
            and self._retry_at == math.inf
        ):
            self._attempt()

    def _has_room(self) -> bool:
        count = len(self._connections)
        return count < self._max_connections and count < self._descriptors()

    def _attempt(self) -> None:
        connection = self._make_lond_connection()
        self._connections.add(connection)
        self._attempting.add(connection)
        self._changed(None)
        connection.connect()

    def _tick(self) -> None:
        """Callback: something is due, or would have been."""
        patience = self._patience
        late = list(self._due(self._waiting, patience.queue_timeout))
        for _ in self._due(self._unproven, PROVEN_AFTER):
            self._proven()
        for connection in self._due(self._idle, patience.idle_timeout):
            self._let_go(connection, "it was idle for too long")
        if self._retry_at <= self._clock.now:
            self._retry_at = math.inf
            wanted = not self._connections or (self._waiting and self._has_room())
            if wanted and not self._attempting:
                self._attempt()
        self._alarm.ring_by(self._retry_at)
        why = f"no connection was free for {patience.queue_timeout:g} s"
        self._fail(late, why, Reason.QUEUE_TIMEOUT)

    def _due(self, members: Queue[T] | Stack[T], seconds: float) -> Iterator[T]:
        """Takes out, one after the other, who is there for so long; sees that we look at the next."""
        while (longest := members.oldest()) is not None:
            member, since = longest
            if since + seconds > self._clock.now:
                self._alarm.ring_by(since + seconds)
                return
            members.remove(member)
            yield member

    def _take_waiting(self) -> list[Transaction]:
        waiting = [*self._waiting, *self._delayed]
        self._waiting, self._delayed = Queue(), Queue()
        return waiting

    def _fail(self, transactions: list[Transaction], why: str, reason: Reason) -> None:
        if transactions:
            self._statistics.failed_for(self._clock.now, reason, len(transactions))
        for transaction in transactions:
            transaction.fail(why)
