"""A pool with fakes around it: connections that the test controls, and a clock."""

import math
from random import Random

from support.asking import Asked

from lonc.child.pool import Pool, PoolLimits
from lonc.monitoring.statistics import Reason, Statistics
from lonc.runtime.backoff import Backoff


class FakeConnection:
    """Calls its pool as a LondConnection does, when the test calls for it."""

    def __init__(self, pool, refuse):
        self.pool = pool
        self.refuse = refuse
        self.transaction = None
        self.closed = False
        self.ready = False
        self.started = 0
        self.replied = False
        self.failure = Reason.LOST
        self.in_flight = 0.0
        self.ended = False  # lond has closed, and the loop has not reported it yet
        self.heard = False
        self.lost_unheard = False
        self.vanished = False
        self.heard_at = self.started_at = -math.inf
        self.retired = False
        self.acknowledged = True

    def connect(self, probe):
        self.probe = probe
        if self.refuse:
            self.close("refused at once")

    def still_idle(self):
        assert self.transaction is None
        if self.ended:
            self.close("lond closed it")
        return not self.ended

    def start_request(self, transaction):
        assert self.ready, "work for a connection that is not ready"
        assert not self.closed, "work for a connection that is closed"
        assert self.transaction is None, "work for a connection that is busy"
        self.transaction = transaction
        self.started += 1
        self.started_at = self.pool._clock.now

    def request_started(self):
        return self.started_at

    def heard_since(self, when):
        assert not self.closed
        return self.heard_at >= when

    def awaits_acknowledgement(self):
        return not self.acknowledged

    def retire(self):
        assert not self.closed
        assert self.transaction is not None
        self.retired = True

    def lose(self):
        """End as a connection that turns out to have ended before its request."""
        self.lost_unheard = True
        self.close("reset")

    def close(self, why):
        if not self.closed:
            self.closed = True
            transaction, self.transaction = self.transaction, None
            self.pool.connection_closed(self, why, transaction)

    def become_ready(self):
        self.ready = True
        self.heard_at = self.pool._clock.now
        self.pool.connection_ready(self)

    def answer(self, reply=b"reply\n"):
        transaction, self.transaction = self.transaction, None
        self.replied = True
        self.heard_at = self.pool._clock.now
        (self.pool.retired_to_idle if self.retired else self.pool.server_to_idle)(self)
        self.pool.complete_transaction(transaction, reply)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self):
        self.now = 1000.0
        self.when = math.inf

    def alarm(self, callback):
        self.callback = callback
        return self

    def ring_by(self, when):
        assert when > self.now or when == math.inf or self.ringing
        self.when = min(self.when, when)

    ringing = False

    def advance(self, seconds):
        end = self.now + seconds
        while self.when <= end:
            self.now, self.when = max(self.when, self.now), math.inf
            self.ringing = True
            self.callback()
            self.ringing = False
        self.now = end


class Unshortened(Random):
    """Delays without a random share."""

    def random(self):
        return 0.0


class Host:
    """A pool with everything around it."""

    def __init__(self, max_connections=5, connect_retries=2, idle_timeout=3600.0, max_lifetime=0.0):
        self.descriptors = 1000
        self.refuse = False
        self.made = []
        self.notified = []
        self.timed_out = []  # how many transactions, each time
        self.clock = Clock()
        self.statistics = Statistics(self.clock.now)
        self.pool = Pool(
            self.clock,
            max_connections,
            lambda: self.descriptors,
            PoolLimits(
                connect_retries,
                queue_timeout=60.0,
                idle_timeout=idle_timeout,
                silence=10.0,
                max_lifetime=max_lifetime,
            ),
            Backoff(1.0, 8.0, Unshortened()),
            self.statistics,
            self.make,
            self.notified.append,
            self.timed_out.append,
        )
        self.outcomes = {}

    def make(self):
        attempts = sum(not each.ready for each in self.open)
        assert attempts == 0 or attempts < len(self.open), "one attempt until the host is known to live"
        self.made.append(FakeConnection(self.pool, self.refuse))
        return self.made[-1]

    def ask(self, name):
        transaction = Asked(
            b"%r\n" % name, lambda reply: self.ended(name, "reply"), lambda why: self.ended(name, why)
        )
        self.pool.queue_transaction(transaction)
        return transaction

    def ended(self, name, how):
        assert name not in self.outcomes, f"{name} ended twice"
        self.outcomes[name] = how

    def make_idle(self, count):
        """That many connections are idle, and have been for 2 s."""
        for name in range(count):
            self.ask(name)
        for connection in self.made[1:]:
            connection.become_ready()
        for connection in list(self.busy):
            connection.answer()
        assert len(self.open) == count
        self.outcomes.clear()
        self.clock.advance(2.0)

    @property
    def open(self):
        return [each for each in self.made if not each.closed]

    @property
    def is_saturated(self):
        """Whether the pool has reported that all connections are busy."""
        return self.statistics._saturated_since is not None

    @property
    def busy(self):
        return [each for each in self.open if each.transaction is not None]
