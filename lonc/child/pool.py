"""The pool of one host: which transaction goes on which connection, and when to connect.

It opens another connection when a transaction must wait and there are fewer than the maximum. The
transactions that wait are in its WorkQueue, the connections in its Reachability, which judges by them
whether the host can be reached. It never touches a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Generic, Protocol, TypeVar

from lonc.child.reachability import Clock, HostState, Reachability
from lonc.child.transaction import Transaction
from lonc.child.work_queue import WorkQueue
from lonc.monitoring.statistics import Reason, Statistics
from lonc.runtime.backoff import Backoff
from lonc.runtime.containers import Queue, Stack
from lonc.runtime.line_buffer import Line


class Connection(Protocol):
    """A LondConnection, as the pool needs it. Each call may call back `connection_closed` at once."""

    replied: bool  # at least one reply has arrived
    failure: Reason  # why its request fails if it is closed
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
    def awaits_acknowledgement(self) -> bool: ...
    def retire(self) -> None: ...
    def close(self, why: str) -> None: ...


Refusal = tuple[str, Reason]

_DEAD = ("the host is DEAD", Reason.DEAD)

C = TypeVar("C", bound=Connection)


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

    A connection is attempting (until its dialogue has ended), idle, or else busy. If all connections are
    silent while a transaction waits, one more is attempted as a probe. It is closed again, unless
    lond's machine does not even acknowledge what was sent on another: then it serves.

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
        self._clock = clock
        self._alarm = clock.alarm(self.tick)
        self.reachability: Reachability[C] = Reachability(
            clock, self._alarm, limits.connect_retries, backoff
        )
        self._max_connections = max_connections
        self._descriptors = descriptors
        self._limits = limits
        self._first_look = min(limits.queue_timeout, limits.silence)  # at a transaction that waits
        self._statistics = statistics
        self._make_lond_connection = make_lond_connection
        self._on_change = on_change
        self._on_queue_timeout = on_queue_timeout
        self._young: Queue[C] = Queue()  # ready for less than limits.max_lifetime
        self._idle: Stack[C] = Stack()
        self._work: WorkQueue[C] = WorkQueue()
        self._surplus = False  # a probe serves, too
        self._full = False  # as many connections as may be are established
        self._saturated = False  # `_full`, and none of them is idle
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
        return self.reachability.state

    @property
    def waiting(self) -> int:
        """Number of transactions that wait for a connection, without delayed ones."""
        return len(self._work.clients)

    @property
    def attempting(self) -> int:
        """Number of connections whose dialogue has not ended."""
        return len(self.reachability.attempting)

    @property
    def busy(self) -> int:
        """Number of connections that carry a transaction, including those of clients that have left."""
        return len(self.reachability.established) - len(self._idle)

    @property
    def census(self) -> tuple[HostState, int, int, int]:
        """Differs whenever a connection has come, gone, or changed to or from Idle."""
        return self.state, len(self), self.attempting, len(self._idle)

    @property
    def oldest_wait(self) -> float:
        """Seconds for which the oldest of the `waiting` transactions has waited."""
        oldest = self._work.clients.oldest()
        return 0.0 if oldest is None else self._clock.now - oldest[1]

    @property
    def oldest_in_flight(self) -> float:
        """Seconds for which the oldest of the requests in flight has waited for its reply."""
        return max((each.in_flight for each in self), default=0.0)

    def __iter__(self) -> Iterator[C]:
        return chain(self.reachability.established, self.reachability.attempting)

    def __len__(self) -> int:
        """Number of connections, including those that are attempting."""
        return len(self.reachability.established) + len(self.reachability.attempting)

    def open(self) -> None:
        """Make a connection before the first request, as the original does at its start."""
        if not len(self) and self._connect_refusal is None:
            self._attempt()

    def reset_retries(self) -> None:
        """Forget past failures, and connect now if no connection proves that the host is alive."""
        self.reachability.reset()
        if self._connect_refusal is None and self._may_try():
            self._attempt()
        else:
            self._notify(None)
            self._connect_for_waiting()

    def queue_transaction(self, transaction: Transaction) -> None:
        """Start it on the connection used last. If none is idle it waits, perhaps for a new
        connection."""
        transaction.since = transaction.started = now = self._clock.now
        while (connection := self._idle.pop()) is not None:
            if connection.still_idle():
                if self._full and not self._idle:
                    self._saturated = True
                    self._statistics.saturated(now)
                connection.start_request(transaction)
                return
        if self._queue_refusal is not None:
            self._fail([transaction], *self._queue_refusal)
            self._retry_for_asker()
            return
        self._work.clients.enqueue(transaction, now)
        self._alarm.ring_by(now + self._first_look)
        self._connect_for_waiting()

    def queue_delayed(self, transaction: Transaction, since: float | None = None) -> None:
        """Start it when no other transaction waits, or a while after `since`; see `work_queue`.

        `since` is the time from which it has waited, by default now. It never times out, but fails if
        the host is DEAD.
        """
        if self._queue_refusal is not None:
            transaction.fail(self._queue_refusal[0])
            return
        self._work.enqueue_delayed(transaction, self._clock.now if since is None else since)
        while (connection := self._idle.pop()) is not None:
            if connection.still_idle():
                self.server_to_idle(connection)
                self._update_saturation()
                return
        self._connect_for_waiting()

    def drop_transaction(self, transaction: Transaction) -> None:
        """Take it out of its queue. A delayed one fails by that; one that has been started goes on."""
        self._work.drop(transaction)

    def connection_ready(self, connection: C) -> None:
        """Callback: an attempt has succeeded, the connection is Idle."""
        first = not self.reachability.alive
        self.reachability.attempt_succeeds(connection)
        if self._limits.max_lifetime:
            now = self._clock.now
            self._young.enqueue(connection, now)
            self._alarm.ring_by(now + self._limits.max_lifetime)
        self._notify("connected" if first else None)
        # A probe serves in place of a connection on which not even lond's machine answers.
        if len(self) > self._max_connections and not any(
            each.awaits_acknowledgement() for each in self.reachability.established
        ):
            self._close(connection, "it was a probe")
            return
        self.server_to_idle(connection)
        self._connect_for_waiting()

    def complete_transaction(self, transaction: Transaction, reply: Line) -> None:
        """Callback: a reply has arrived; its connection is idle, busy again or closed by now."""
        self._statistics.replied(
            self._clock.now,
            transaction.since,
            transaction.started,
            len(transaction.request),
            len(reply),
        )
        transaction.complete(reply)

    def server_to_idle(self, connection: C) -> None:
        """Callback: the connection is Idle: start the next transaction on it, or keep it."""
        if self.reachability.silent:
            self._end_silence()
        work = self._work
        if work.delayed_matter:
            transaction = work.next_for(connection, self._clock.now)
        else:
            transaction = work.clients.dequeue()
        if transaction is not None:
            transaction.started = self._clock.now
            connection.start_request(transaction)
        elif self._connect_refusal is not None:
            self._close(connection, self._connect_refusal[0])
        elif self._surplus:
            self._close(connection, "it is one too many")
        else:
            now = self._clock.now
            self._idle.push(connection, now)
            if self._saturated:
                self._saturated = False
                self._statistics.desaturated(now)
            self._alarm.ring_by(now + self._limits.idle_timeout)

    def retired_to_idle(self, connection: C) -> None:
        """Callback, instead of `server_to_idle`: a connection that has been retired is Idle."""
        if self._work:
            self.server_to_idle(connection)
        else:
            if self.reachability.silent:
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
        how = connection.failure
        reachability = self.reachability
        attempted = connection in reachability.attempting
        if not attempted and connection not in reachability.established:  # the pool itself has closed it
            self._fail(lost, why, how)
            return
        self._idle.remove(connection)
        self._young.remove(connection)
        self._work.connection_ended(connection)
        if connection.lost_unheard:
            self._close_idle_before(connection.request_started())
        failed = reachability.connection_lost(connection)
        why = f"an attempt failed: {why}" if attempted else f"lost a connection: {why}"
        unserved: list[Transaction] = []
        if failed:
            if self._connect_refusal is None:
                reachability.set_retry()
            if not len(self) or reachability.state is HostState.DEAD:
                unserved = self._work.pop_all()
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
        for connection in list(self):
            connection.close(why)

    def tick(self) -> None:
        """Callback of the alarm: something may be due."""
        limits, now = self._limits, self._clock.now
        late = list(self._work.clients.pop_due(limits.queue_timeout, now))
        if self.reachability.settle():
            self._notify(None)
        for connection in self._idle.pop_due(limits.idle_timeout, now):
            self._close(connection, "it was idle for too long")
        for connection in self._young.pop_due(limits.max_lifetime, now):
            if self._idle.remove(connection):
                self._close(connection, "it is too old")
            else:
                connection.retire()
        if self.reachability.retry_due():
            again = self._may_try() and not self._draining
            if not self.attempting and (again or (self._work.clients and self._has_room())):
                self._attempt()
        self._probe_if_silent()
        self._alarm.ring_by(self._work.clients.due(limits.queue_timeout))
        self._alarm.ring_by(self._idle.due(limits.idle_timeout))
        self._alarm.ring_by(self._young.due(limits.max_lifetime))
        if late:
            self._on_queue_timeout(len(late))
        why = f"no connection was free for {limits.queue_timeout:g} s"
        self._fail(late, why, Reason.QUEUE_TIMEOUT)

    def _refuse(self, why: str, reason: Reason) -> None:
        self._connect_refusal = why, reason
        self.reachability.cancel_retry()
        self._notify(None)
        self.close_idle()
        self._fail(self._work.pop_all(), why, reason)

    def _close(self, connection: C, why: str) -> None:
        """Close a connection that is idle; this is no failure of the host."""
        self.reachability.connection_closed(connection)
        self._work.connection_ended(connection)
        self._young.remove(connection)
        self._notify(None)
        connection.close(why)

    def _close_idle_before(self, when: float) -> None:
        """Close the connections that have been idle since before `when`."""
        while (oldest := self._idle.oldest()) is not None and oldest[1] < when:
            self._idle.remove(oldest[0])
            self.reachability.connection_stale(oldest[0])
            self._close(oldest[0], "another that was idle for less long has ended")

    def _end_silence(self) -> None:
        """A connection has received a reply: the host is alive, and was."""
        self.reachability.silence_ends()
        self._notify("lond has replied")

    def _notify(self, why: str | None) -> None:
        """After each change of connections, retries or state: what is refused now? Then call back."""
        count = len(self.reachability.established)
        self._full = count >= self._max_connections
        self._surplus = count > self._max_connections
        self._update_saturation()
        refusal = self._connect_refusal
        if refusal is None and self.reachability.state is HostState.DEAD:
            refusal = _DEAD
        self._queue_refusal = refusal
        self._on_change(why)

    def _may_try(self) -> bool:
        """Whether there is no connection, or one more may be attempted beside silent ones."""
        return not len(self) or (self.reachability.may_probe and len(self) < self._descriptors())

    def _update_saturation(self) -> None:
        """Note whether a connection is free. (Where a connection is taken or becomes idle this is done
        in place: with as many clients as connections, both happen with each transaction.)"""
        saturated = self._full and not self._idle
        if saturated is not self._saturated:
            self._saturated = saturated
            count = self._statistics.saturated if saturated else self._statistics.desaturated
            count(self._clock.now)

    def _probe_if_silent(self) -> None:
        """Attempt one more connection if a transaction has waited for `limits.silence` seconds and no
        connection has received anything for as long."""
        oldest = self._work.clients.oldest()
        if (
            oldest is not None
            and self._connect_refusal is None
            and self.reachability.probe_due(oldest[1], self._limits.silence)
            and len(self) <= self._max_connections
            and len(self) < self._descriptors()
        ):
            self._attempt()

    def _retry_for_asker(self) -> None:
        """A request for a DEAD host was refused: try now, unless that was done a moment ago."""
        reachability = self.reachability
        if self._connect_refusal is None and self._may_try() and reachability.asked_retry_due:
            reachability.cancel_retry()
            self._attempt()

    def _connect_for_waiting(self) -> None:
        """Connect for the transactions that wait.

        While the host is unproven, open one connection at a time; then one per waiting transaction.
        After a failed attempt, wait for the retry delay while other connections still serve.
        """
        reachability, work = self.reachability, self._work
        if work and not len(self):
            self._attempt()
        while (
            self._has_room()
            and len(work) > len(reachability.attempting)
            and reachability.alive
            and not reachability.retry_is_set
        ):
            self._attempt()

    def _has_room(self) -> bool:
        count = len(self)
        return count < self._max_connections and count < self._descriptors()

    def _attempt(self) -> None:
        connection = self._make_lond_connection()
        self.reachability.attempt_begins(connection)
        self._notify(None)
        connection.connect(probe=len(self) > self._max_connections)

    def _fail(self, transactions: list[Transaction], why: str, reason: Reason) -> None:
        if transactions:
            self._statistics.failed_for(self._clock.now, reason, len(transactions))
        for transaction in transactions:
            transaction.fail(why)
