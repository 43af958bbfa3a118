"""The pool of one host: which transaction goes on which connection, and when to connect or to give up.

It opens another connection when a transaction must wait and there are fewer than the maximum. While it
has none because attempts have failed, it tries again after growing delays. It never touches a socket.
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

DELAYED_FIRST_AFTER = 1.0  # seconds; a delayed transaction that waits longer goes ahead of clients
LOOK_AGAIN = 1.0  # seconds between looks whether silent connections have received anything
ASKED_RETRY = 5.0  # seconds from one attempt to another that a request for a DEAD host causes
PROVEN_AFTER = 1.0  # seconds; a connection that lasts so long after its dialogue is a success


class HostState(Enum):
    """The state of the host, in the words of the status report."""

    CONNECTING = "connecting"
    READY = "ready"
    DEAD = "DEAD"
    DISABLED = "disabled"
    DRAINING = "draining"


class Connection(Protocol):
    """A LondConnection, as the pool needs it. Each call may call back `connection_closed` at once."""

    replied: bool  # at least one reply has arrived
    timed_out: bool  # it was closed because a reply did not arrive in time
    heard: bool  # lond has said something in the dialogue
    vanished: bool  # it was lost because lond's machine did not answer
    lost_unheard: bool  # it was lost with a request, before the first byte of the reply

    @property
    def in_flight(self) -> float: ...  # seconds since its request was started; 0 without one
    def connect(self, *, probe: bool) -> None: ...
    def start_request(self, transaction: Transaction) -> None: ...
    def still_idle(self) -> bool: ...
    def heard_since(self, when: float) -> bool: ...
    def request_started(self) -> float: ...
    def retire(self) -> None: ...
    def close(self, why: str) -> None: ...


class Alarm(Protocol):
    """Calls back at the earliest time for which it was set, or before."""

    def ring_by(self, when: float) -> None: ...


class Clock(Protocol):
    """The event loop, as the pool needs it; `now` is the time of this turn, in seconds."""

    now: float

    def alarm(self, callback: Callable[[], None]) -> Alarm: ...


Refusal = tuple[str, Reason]

_DEAD = ("the host is DEAD", Reason.DEAD)

C = TypeVar("C", bound=Connection)
T = TypeVar("T")


@dataclass(frozen=True)
class PoolLimits:
    """The settings that bound retries and waiting; times are in seconds."""

    connect_retries: int  # failed attempts in a row that make the host DEAD
    queue_timeout: float  # of a transaction that waits for a connection
    idle_timeout: float  # of a connection without a transaction
    silence: float  # of all connections while a transaction waits, until a probe is made
    max_lifetime: float  # of a connection, from the end of its dialogue; 0 for no limit


class Pool(Generic[C]):
    """The connections to one host, and the transactions that wait for one.

    A connection is attempting (until its dialogue has ended), idle, or else busy. One that is lost
    within PROVEN_AFTER seconds without a reply counts as a failed attempt, too.

    Connections prove that the host is alive, until an attempt fails during which none of them has
    received anything; then the pool is unproven until one of them does, or an attempt succeeds.

    If all connections are silent while a transaction waits, one more is attempted as a probe.

    There are at most `max_connections` connections and one probe, or `descriptors()` if that is less.
    `backoff` gives the delays before retries. `make_lond_connection()` returns a connection that has
    not connected yet.

    Callbacks:

    - `on_change(why)` after a change of connections, retries or state; `why` is None if there is nothing
      to report;
    - `on_queue_timeout(count)`: so many transactions have waited for too long, and fail after this.
    """

    def __init__(
        self,
        clock: Clock,
        max_connections: int,
        descriptors: Callable[[], int],
        limits: PoolLimits,
        backoff: Backoff,
        statistics: Statistics,
        make_lond_connection: Callable[[], C],
        on_change: Callable[[str | None], None],
        on_queue_timeout: Callable[[int], None],
    ) -> None:
        self.retries_remaining = limits.connect_retries
        self._clock = clock
        self._alarm = clock.alarm(self.tick)
        self._max_connections = max_connections
        self._descriptors = descriptors
        self._limits = limits
        self._first_look = min(limits.queue_timeout, limits.silence)  # at a transaction that waits
        self._backoff = backoff
        self._statistics = statistics
        self._make_lond_connection = make_lond_connection
        self._on_change = on_change
        self._on_queue_timeout = on_queue_timeout
        self._connections: set[C] = set()
        self._attempting: dict[C, float] = {}  # when each attempt has begun
        self._last_attempt = -math.inf  # when it began
        self._silent = False  # the connections do not prove that the host is alive
        self._unproven: Queue[C] = Queue()  # ready for less than PROVEN_AFTER
        self._young: Queue[C] = Queue()  # ready for less than limits.max_lifetime
        self._idle: Stack[C] = Stack()
        self._waiting: Queue[Transaction] = Queue()
        self._delayed: Queue[Transaction] = Queue()  # behind `_waiting`, but see `_next_transaction`
        self._carry_delayed: set[C] = set()
        self._delayed_matter = False  # one is queued or in flight; a flag costs the hot path less
        self._retry_at = math.inf  # finite only between a failure and the next attempt or success
        self._draining = False
        self._disabled = False
        self._connect_refusal: Refusal | None = None  # why no connection may be made
        self._queue_refusal: Refusal | None = None  # why no transaction is accepted: that, or DEAD

    @property
    def state(self) -> HostState:
        if self._draining:
            return HostState.DRAINING
        if self._disabled:
            return HostState.DISABLED
        if self._alive:
            return HostState.READY
        if self._dead:
            return HostState.DEAD
        if self._attempting or self.retries_remaining < self._limits.connect_retries:
            return HostState.CONNECTING
        return HostState.READY

    @property
    def waiting(self) -> int:
        """Number of transactions that wait for a connection, without delayed ones."""
        return len(self._waiting)

    @property
    def attempting(self) -> int:
        """Number of connections whose dialogue has not ended."""
        return len(self._attempting)

    @property
    def busy(self) -> int:
        """Number of connections that carry a transaction, including those of clients that have left."""
        return len(self._connections) - len(self._attempting) - len(self._idle)

    @property
    def census(self) -> tuple[HostState, int, int, int]:
        """Differs whenever a connection has come, gone, or changed to or from Idle."""
        return self.state, len(self._connections), len(self._attempting), len(self._idle)

    @property
    def oldest_wait(self) -> float:
        """Seconds for which the oldest of the `waiting` transactions has waited."""
        oldest = self._waiting.oldest()
        return 0.0 if oldest is None else self._clock.now - oldest[1]

    @property
    def oldest_in_flight(self) -> float:
        """Seconds for which the oldest of the requests in flight has waited for its reply."""
        return max((each.in_flight for each in self._connections), default=0.0)

    def __iter__(self) -> Iterator[C]:
        return iter(self._connections)

    def __len__(self) -> int:
        """Number of connections, including those that are attempting."""
        return len(self._connections)

    def open(self) -> None:
        """Make a connection before the first request, as the original does at its start."""
        if not self._connections and self._connect_refusal is None:
            self._attempt()

    def reset_retries(self) -> None:
        """Forget past failures, and connect now if no connection proves that the host is alive."""
        self.retries_remaining = self._limits.connect_retries
        self._retry_at = math.inf
        self._backoff.reset()
        if self._connect_refusal is not None or (self._connections and not self._may_probe()):
            self._notify(None)
            self._connect_for_waiting()
        else:
            self._attempt()

    def queue_transaction(self, transaction: Transaction) -> None:
        """Start it on the connection used last. If none is idle it waits, perhaps for a new
        connection."""
        transaction.since = now = self._clock.now
        while (connection := self._idle.pop()) is not None:
            if connection.still_idle():
                connection.start_request(transaction)
                return
        if self._queue_refusal is not None:
            self._fail([transaction], *self._queue_refusal)
            self._retry_for_asker()
            return
        self._waiting.enqueue(transaction, now)
        self._alarm.ring_by(now + self._first_look)
        self._connect_for_waiting()

    def queue_delayed(self, transaction: Transaction, since: float | None = None) -> None:
        """Start it when no other transaction waits, or DELAYED_FIRST_AFTER seconds after `since`.

        `since` is the time from which it has waited, by default now. It never times out, but fails if
        the host is DEAD.
        """
        if self._queue_refusal is not None:
            transaction.fail(self._queue_refusal[0])
            return
        self._delayed.enqueue(transaction, self._clock.now if since is None else since)
        self._delayed_matter = True
        while (connection := self._idle.pop()) is not None:
            if connection.still_idle():
                self.server_to_idle(connection)
                return
        self._connect_for_waiting()

    def drop_transaction(self, transaction: Transaction) -> None:
        """Take it out of its queue. A delayed one fails by that; one that has been started goes on."""
        self._waiting.remove(transaction)
        if self._delayed.remove(transaction):
            transaction.fail("it is not wanted any more")

    def connection_ready(self, connection: C) -> None:
        """Callback: an attempt has succeeded, the connection is Idle."""
        first = not self._alive
        del self._attempting[connection]
        self._silent = False
        self._retry_at = math.inf
        now = self._clock.now
        self._unproven.enqueue(connection, now)
        self._alarm.ring_by(now + PROVEN_AFTER)
        if self._limits.max_lifetime:
            self._young.enqueue(connection, now)
            self._alarm.ring_by(now + self._limits.max_lifetime)
        self._notify("connected" if first else None)
        if len(self._connections) > self._max_connections:
            self._close(connection, "it was a probe")
            return
        self.server_to_idle(connection)
        self._connect_for_waiting()

    def complete_transaction(self, transaction: Transaction, reply: Line) -> None:
        """Callback: a reply has arrived; its connection is idle, busy again or closed by now."""
        self._statistics.replied(
            self._clock.now, transaction.since, len(transaction.request), len(reply)
        )
        transaction.complete(reply)

    def server_to_idle(self, connection: C) -> None:
        """Callback: the connection is Idle: start the next transaction on it, or keep it."""
        if self._silent:
            self._end_silence()
        if self._delayed_matter:
            transaction = self._next_transaction(connection)
        else:
            transaction = self._waiting.dequeue()
        if transaction is not None:
            connection.start_request(transaction)
        elif self._connect_refusal is not None:
            self._close(connection, self._connect_refusal[0])
        else:
            now = self._clock.now
            self._idle.push(connection, now)
            self._alarm.ring_by(now + self._limits.idle_timeout)

    def retired_to_idle(self, connection: C) -> None:
        """Callback, instead of `server_to_idle`: a connection that has been retired is Idle."""
        if self._waiting or self._delayed:
            self.server_to_idle(connection)
        else:
            if self._silent:
                self._end_silence()
            self._close(connection, "it is too old")

    def connection_closed(self, connection: C, why: str, transaction: Transaction | None) -> None:
        """Callback: a connection or an attempt has ended, with `transaction` in flight.

        A failed attempt costs a retry if no other connection shows that the host is alive. If no other
        is on its way either, or the host is DEAD now, all waiting transactions fail. A lost connection
        is replaced if transactions wait. If it was idle and had ended unnoticed, those that have been
        idle for as long are closed too. If the last one that was idle has ended because the machine did
        not answer, an attempt shows whether the host is alive.
        """
        lost = [] if transaction is None else [transaction]
        how = Reason.REQUEST_TIMEOUT if connection.timed_out else Reason.LOST
        if connection not in self._connections:  # the pool itself has closed it
            self._fail(lost, why, how)
            return
        self._connections.remove(connection)
        self._idle.remove(connection)
        self._young.remove(connection)
        self._carry_delayed.discard(connection)
        begun = self._attempting.pop(connection, None)
        if connection.lost_unheard:
            self._close_idle_before(connection.request_started())
        attempted = failed = begun is not None
        if begun is not None and not connection.heard and self._established:
            self._silent = not any(
                each.heard_since(begun) for each in self._connections if each not in self._attempting
            )
        if not self._established:
            self._silent = False
        if self._unproven.remove(connection):
            if connection.replied:
                self._mark_alive()
            else:
                failed = True
        why = f"an attempt failed: {why}" if attempted else f"lost a connection: {why}"
        unserved: list[Transaction] = []
        if failed:
            if not self._alive:
                self.retries_remaining = max(0, self.retries_remaining - 1)
            self._schedule_retry()
            if not self._connections or self._dead:
                unserved = self._pop_waiting()
        # In this order, since a client may send its next request from within its failure. First the
        # state is updated: if the host is DEAD by now, that request must be refused. The lost
        # transaction is older than those that wait, so it fails before them. Connecting comes last: only
        # then is it known what waits, and an attempt may fail at once and call this again, which must
        # find all done.
        self._notify(why)
        self._fail(lost, why, how)
        self._fail(unserved, why, Reason.UNREACHABLE)
        if connection.vanished and not failed and not self._draining:
            self.open()
        self._connect_for_waiting()

    def drain(self) -> None:
        """Change the state to draining. Transactions go on, and further ones are accepted; but failed
        attempts are no longer repeated for their own sake."""
        if not self._draining:
            self._draining = True
            self._notify("asked to leave")

    def disable(self) -> None:
        """Accept no transaction and make no connection; those in flight go on."""
        self._disabled = True
        self._refuse("the host is disabled", Reason.DISABLED)

    def enable(self) -> None:
        """End `disable`, and connect as at the start."""
        if self._disabled:
            self._disabled, self._connect_refusal = False, None
            self.reset_retries()

    def close_idle(self) -> None:
        """Close all idle connections."""
        while (connection := self._idle.pop()) is not None:
            self._close(connection, "it is not needed")

    def shut_down(self, why: str) -> None:
        """Fail all transactions, and every later one; close all connections."""
        self._refuse(why, Reason.STOPPED)
        for connection in list(self._connections):
            connection.close(why)

    def tick(self) -> None:
        """Callback of the alarm: something may be due."""
        limits = self._limits
        late = list(self._pop_older(self._waiting, limits.queue_timeout))
        for _ in self._pop_older(self._unproven, PROVEN_AFTER):
            self._mark_alive()
        for connection in self._pop_older(self._idle, limits.idle_timeout):
            self._close(connection, "it was idle for too long")
        for connection in self._pop_older(self._young, limits.max_lifetime):
            if self._idle.remove(connection):
                self._close(connection, "it is too old")
            else:
                connection.retire()
        if self._retry_at <= self._clock.now:
            self._retry_at = math.inf
            probe = (not self._connections or self._may_probe()) and not self._draining
            if not self._attempting and (probe or (self._waiting and self._has_room())):
                self._attempt()
        self._probe_if_silent()
        self._alarm.ring_by(self._retry_at)
        if late:
            self._on_queue_timeout(len(late))
        why = f"no connection was free for {limits.queue_timeout:g} s"
        self._fail(late, why, Reason.QUEUE_TIMEOUT)

    @property
    def _established(self) -> bool:
        return len(self._connections) > len(self._attempting)

    @property
    def _alive(self) -> bool:
        """Whether a connection proves that the host is alive."""
        return self._established and not self._silent

    @property
    def _dead(self) -> bool:
        return self.retries_remaining == 0 and not self._alive

    def _next_transaction(self, connection: C) -> Transaction | None:
        """The transaction to start while there are delayed ones.

        The oldest delayed one goes first once it has waited for DELAYED_FIRST_AFTER seconds, if no other
        is in flight; the connection of one then serves a client. So clients lose one connection at most.
        """
        served = connection in self._carry_delayed
        self._carry_delayed.discard(connection)
        oldest = self._delayed.oldest()
        if self._waiting:
            overdue = oldest is not None and oldest[1] + DELAYED_FIRST_AFTER <= self._clock.now
            if not overdue or served or self._carry_delayed:
                return self._waiting.dequeue()
        if oldest is None:
            self._delayed_matter = bool(self._carry_delayed)
            return None
        transaction = oldest[0]
        self._delayed.remove(transaction)
        self._carry_delayed.add(connection)
        transaction.since = self._clock.now  # its latency is lond's alone: no client has waited
        return transaction

    def _refuse(self, why: str, reason: Reason) -> None:
        self._connect_refusal = why, reason
        self._retry_at = math.inf
        self._notify(None)
        self.close_idle()
        self._fail(self._pop_waiting(), why, reason)

    def _close(self, connection: C, why: str) -> None:
        """Close a connection that is idle; this is no failure of the host."""
        self._connections.remove(connection)
        self._carry_delayed.discard(connection)
        self._young.remove(connection)
        if self._unproven.remove(connection):
            self._mark_alive()
        self._notify(None)
        connection.close(why)

    def _close_idle_before(self, when: float) -> None:
        """Close the connections that have been idle since before `when`."""
        while (oldest := self._idle.oldest()) is not None and oldest[1] < when:
            self._idle.remove(oldest[0])
            self._unproven.remove(oldest[0])
            self._close(oldest[0], "another that was idle for less long has ended")

    def _end_silence(self) -> None:
        """A connection has received a reply: the host is alive, and was."""
        self._silent = False
        self._retry_at = math.inf
        self._mark_alive()
        self._notify("lond has replied")

    def _notify(self, why: str | None) -> None:
        """After each change of connections, retries or state: what is refused now? Then call back."""
        self._queue_refusal = (
            _DEAD if self._connect_refusal is None and self._dead else self._connect_refusal
        )
        self._on_change(why)

    def _mark_alive(self) -> None:
        """A connection has proven that the host is alive."""
        self._backoff.reset()
        if self.retries_remaining < self._limits.connect_retries:
            self.retries_remaining = self._limits.connect_retries
            self._notify(None)

    def _schedule_retry(self) -> None:
        if self._connect_refusal is None and self._retry_at == math.inf:
            self._retry_at = self._clock.now + self._backoff.next_delay()
            self._alarm.ring_by(self._retry_at)

    def _may_probe(self) -> bool:
        """Whether the connections prove nothing, and one more may be attempted beside them."""
        return self._silent and not self._attempting and len(self) < self._descriptors()

    def _probe_if_silent(self) -> None:
        """Attempt one more connection if a transaction has waited for `limits.silence` seconds and no
        connection has received anything for as long."""
        oldest = self._waiting.oldest()
        if oldest is None or self._connect_refusal is not None:
            return
        now, silence = self._clock.now, self._limits.silence
        if oldest[1] + silence > now:
            self._alarm.ring_by(oldest[1] + silence)
            return
        self._alarm.ring_by(now + LOOK_AGAIN)
        if (
            not self._attempting
            and self._retry_at == math.inf
            and self._last_attempt + silence <= now
            and len(self) < self._descriptors()
            and not any(each.heard_since(now - silence) for each in self._connections)
        ):
            self._attempt()

    def _retry_for_asker(self) -> None:
        """A request for a DEAD host was refused: try now, unless that was done a moment ago."""
        if (
            self._connect_refusal is None
            and (not self._connections or self._may_probe())
            and self._last_attempt + ASKED_RETRY <= self._clock.now
        ):
            self._retry_at = math.inf
            self._attempt()

    def _connect_for_waiting(self) -> None:
        """Connect for the transactions that wait.

        While the host is unproven, open one connection at a time; then one per waiting transaction.
        After a failed attempt, wait for the retry delay while other connections still serve.
        """
        if not self._connections and (self._waiting or self._delayed):
            self._attempt()
        while (
            self._has_room()
            and len(self._waiting) + len(self._delayed) > len(self._attempting)
            and self._alive
            and self._retry_at == math.inf
        ):
            self._attempt()

    def _has_room(self) -> bool:
        count = len(self._connections)
        return count < self._max_connections and count < self._descriptors()

    def _attempt(self) -> None:
        connection = self._make_lond_connection()
        self._connections.add(connection)
        self._attempting[connection] = self._last_attempt = self._clock.now
        self._notify(None)
        connection.connect(probe=len(self) > self._max_connections)

    def _pop_older(self, members: Queue[T] | Stack[T], seconds: float) -> Iterator[T]:
        """Pop every member older than `seconds`, and set the alarm for the next one."""
        while (oldest := members.oldest()) is not None:
            member, since = oldest
            if since + seconds > self._clock.now:
                self._alarm.ring_by(since + seconds)
                return
            members.remove(member)
            yield member

    def _pop_waiting(self) -> list[Transaction]:
        waiting = [*self._waiting, *self._delayed]
        self._waiting, self._delayed = Queue(), Queue()
        return waiting

    def _fail(self, transactions: list[Transaction], why: str, reason: Reason) -> None:
        if transactions:
            self._statistics.failed_for(self._clock.now, reason, len(transactions))
        for transaction in transactions:
            transaction.fail(why)
