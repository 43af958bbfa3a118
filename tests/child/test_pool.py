import math
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.asking import Asked

from lonc.child.pool import HostState, Pool, PoolLimits
from lonc.monitoring.statistics import Reason, Statistics
from lonc.runtime.backoff import Backoff


class FakeConnection:
    """What a LondConnection does towards its pool, when told to."""

    def __init__(self, pool, refuse):
        self.pool = pool
        self.refuse = refuse
        self.transaction = None
        self.closed = False
        self.ready = False
        self.started = 0
        self.replied = False
        self.timed_out = False
        self.in_flight = 0.0
        self.ended = False  # lond has closed, and the loop has not told yet
        self.heard = False
        self.lost_unheard = False
        self.vanished = False
        self.heard_at = self.started_at = -math.inf
        self.retired = False

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

    def retire(self):
        assert not self.closed
        assert self.transaction is not None
        self.retired = True

    def lose(self):
        """It turns out to have ended before its request came."""
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
    """Delays that can be told beforehand."""

    def random(self):
        return 0.0


class Host:
    """A pool with everything around it."""

    def __init__(self, max_connections=5, connect_retries=2, idle_timeout=3600.0, max_lifetime=0.0):
        self.descriptors = 1000
        self.refuse = False
        self.made = []
        self.told = []
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
            self.told.append,
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

    @property
    def open(self):
        return [each for each in self.made if not each.closed]

    @property
    def busy(self):
        return [each for each in self.open if each.transaction is not None]


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def ready(host):
    """With one connection that is ready and idle."""
    host.pool.open()
    host.made[0].become_ready()
    return host


def test_one_connection_is_opened_at_the_start(host):
    assert host.pool.state is HostState.READY
    host.pool.open()
    assert len(host.made) == 1
    assert host.pool.state is HostState.CONNECTING
    host.made[0].become_ready()
    assert host.pool.state is HostState.READY
    assert host.told == [None, "connected"]


def test_a_transaction_goes_on_the_idle_connection(ready):
    ready.ask(1)
    ready.made[0].answer()
    assert ready.outcomes == {1: "reply"}
    assert ready.statistics.done == 1
    assert len(ready.made) == 1


def test_another_connection_is_opened_whenever_a_transaction_must_wait_up_to_the_most(ready):
    for name in range(10):
        ready.ask(name)
    assert len(ready.made) == 5
    assert ready.pool.waiting == 9


def test_what_waits_is_served_first_come_first_served(ready):
    for name in range(4):
        ready.ask(name)
    for name in range(4):
        assert ready.made[0].transaction.request == b"%d\n" % name
        ready.made[0].answer()
    assert list(ready.outcomes) == [0, 1, 2, 3]


def test_the_connection_used_last_is_used_next(ready):
    ready.ask(1)
    ready.ask(2)
    ready.made[1].become_ready()
    ready.made[0].answer()
    ready.made[1].answer()
    ready.ask(3)
    assert ready.made[1].transaction.request == b"3\n"


def test_the_connection_is_free_before_its_reply_goes_up(ready):
    ready.pool.queue_transaction(Asked(b"1\n", lambda _: ready.ask(2), pytest.fail))
    ready.made[0].answer()
    assert ready.made[0].transaction.request == b"2\n"
    assert len(ready.made) == 1


def test_a_connection_that_breaks_fails_only_its_own_transaction(ready):
    ready.ask(1)
    ready.ask(2)
    ready.made[0].close("reset")
    assert ready.outcomes == {1: "lost a connection: reset"}
    ready.made[1].become_ready()
    ready.made[1].answer()
    assert ready.outcomes[2] == "reply"
    assert (ready.statistics.done, ready.statistics.failed) == (1, 1)


def test_failures_are_counted_by_their_reasons(host):
    host.ask(1)
    host.ask(2)
    host.made[0].close("refused")
    host.clock.advance(1.0)
    host.made[1].close("refused")
    host.ask(3)
    host.pool.reset_retries()
    host.made[2].become_ready()
    host.ask(4)
    host.made[2].close("reset")
    host.ask(5)
    host.made[3].become_ready()
    host.made[3].timed_out = True
    host.made[3].close("no reply")
    host.pool.disable()
    host.ask(6)
    assert host.statistics.reasons == {
        Reason.UNREACHABLE: 2,
        Reason.DEAD: 1,
        Reason.LOST: 1,
        Reason.REQUEST_TIMEOUT: 1,
        Reason.DISABLED: 1,
    }


def test_how_long_a_reply_took_begins_with_the_request_and_that_of_a_delayed_one_with_its_start(ready):
    ready.ask(1)
    for name in (2, 3):
        ready.ask(name)
        ready.pool.queue_delayed(Asked(b"x", lambda _: None, lambda _: None))
    ready.clock.advance(4.0)
    assert ready.pool.oldest_wait == 4.0
    for _ in range(5):
        ready.made[0].answer()
    assert ready.statistics.last_minute(ready.clock.now).percentile(1) == 4.0
    assert ready.statistics.seconds == 3 * 4.0


def test_if_the_last_connection_is_lost_while_something_waits_a_new_attempt_starts(host):
    host = Host(max_connections=1)
    host.pool.open()
    host.made[0].become_ready()
    host.ask(1)
    host.ask(2)
    host.clock.advance(1.0)
    host.made[0].close("reset")
    assert len(host.open) == 1
    host.open[0].become_ready()
    host.open[0].answer()
    assert host.outcomes == {1: "lost a connection: reset", 2: "reply"}


def test_a_lost_connection_is_replaced_while_something_waits_even_beside_a_busy_one(ready):
    ready = Host(max_connections=2)
    ready.pool.open()
    ready.made[0].become_ready()
    for name in (1, 2, 3):
        ready.ask(name)
    ready.made[1].become_ready()
    ready.clock.advance(1.0)
    ready.made[1].close("reset")  # 1 is busy for ever, 3 waits
    assert len(ready.open) == 2
    ready.open[1].become_ready()
    ready.open[1].answer()
    assert ready.outcomes[3] == "reply"


def test_until_the_host_is_known_to_live_there_is_one_attempt_and_if_it_fails_so_does_what_waits(host):
    host.ask(1)
    host.ask(2)
    assert len(host.made) == 1
    host.made[0].close("refused")
    assert host.outcomes == dict.fromkeys((1, 2), "an attempt failed: refused")
    assert host.pool.waiting == 0


def test_once_it_lives_there_are_as_many_attempts_as_transactions_wait(host):
    for name in range(3):
        host.ask(name)
    host.made[0].become_ready()
    assert len(host.made) == 3
    host.ask(3)
    assert len(host.made) == 4
    host.made[0].answer()
    host.made[1].become_ready()
    assert len(host.made) == 4


def test_a_failed_attempt_beside_a_busy_connection_fails_nothing(ready):
    ready.ask(1)
    ready.ask(2)
    ready.made[1].close("refused")
    assert ready.outcomes == {}
    assert ready.pool.retries_remaining == 2
    ready.made[0].answer()
    ready.made[0].answer()
    assert ready.outcomes == {1: "reply", 2: "reply"}


def test_failures_in_a_row_make_the_host_dead_and_a_success_brings_it_back(host):
    for retries, state in ((1, HostState.CONNECTING), (0, HostState.DEAD)):
        host.ask(len(host.outcomes))
        host.made[-1].close("refused")
        assert host.pool.retries_remaining == retries
        assert host.pool.state is state
    host.clock.advance(1.0)
    assert host.pool.state is HostState.DEAD
    host.made[-1].become_ready()
    assert host.pool.state is HostState.READY
    host.clock.advance(1.0)
    assert host.pool.retries_remaining == 2


def test_what_waits_when_a_host_becomes_dead_fails_at_once_though_other_attempts_go_on(ready):
    ready.clock.advance(1.0)
    for name in range(4):
        ready.ask(name)
    ready.made[0].close("broken")
    ready.made[1].close("refused")
    assert set(ready.outcomes) == {0}
    ready.made[2].close("refused")
    assert ready.pool.state is HostState.DEAD
    assert set(ready.outcomes) == {0, 1, 2, 3}


def test_whoever_asks_a_dead_host_fails_at_once_and_causes_no_attempt(host):
    host.refuse = True
    for name in range(5):
        host.ask(name)
    assert len(host.made) == 2
    assert host.outcomes[1] == "an attempt failed: refused at once"
    assert host.outcomes[4] == "the host is DEAD"
    assert host.statistics.failed == 5


def test_a_dead_host_is_tried_again_after_growing_delays_one_attempt_at_a_time(host):
    host.refuse = True
    host.ask(1)
    host.ask(2)
    begun = host.clock.now
    attempts = []
    make = host.pool._make_lond_connection
    host.pool._make_lond_connection = lambda: attempts.append(host.clock.now - begun) or make()
    for _ in range(400):
        host.clock.advance(0.1)
    assert attempts == [1, 3, 7, 15, 23, 31, 39]
    host.refuse = False
    host.clock.advance(20.0)
    assert attempts[7:] == [47]  # that attempt is still under way
    host.made[-1].close("timed out")
    host.clock.advance(8.0)
    host.made[-1].become_ready()
    host.clock.advance(100.0)
    assert len(attempts) == 9


def test_a_host_whose_first_attempt_has_failed_is_tried_again_too(host):
    host.pool.open()
    host.made[0].close("refused")
    assert host.pool.state is HostState.CONNECTING
    host.clock.advance(1.0)
    host.made[1].become_ready()
    assert host.pool.state is HostState.READY


def test_a_retry_that_is_due_while_an_attempt_is_under_way_for_who_waits_is_none_more(host):
    host.pool.open()
    host.made[0].close("no answer")
    host.clock.advance(0.5)
    host.ask(1)
    host.clock.advance(5.0)
    assert len(host.made) == 2
    host.made[1].close("no answer")
    assert host.pool.state is HostState.DEAD
    assert host.outcomes == {1: "an attempt failed: no answer"}
    host.clock.advance(2.0)
    assert len(host.made) == 3


def test_a_connection_that_ends_right_after_its_dialogue_was_a_failed_attempt(host):
    host.pool.open()
    for retries in (1, 0):
        host.made[-1].become_ready()
        assert host.pool.state is HostState.READY
        host.made[-1].close("reset")
        assert host.pool.retries_remaining == retries
        host.clock.advance(retries * 1.0)
    assert host.pool.state is HostState.DEAD


@pytest.mark.parametrize("how", ["reply", "time"])
def test_a_connection_that_has_served_or_lasted_was_none(host, how):
    host.ask(1)
    host.made[0].close("refused")
    host.ask(2)
    host.made[1].become_ready()
    if how == "reply":
        host.made[1].answer()
    else:
        host.clock.advance(1.0)
    host.made[1].close("reset")
    assert host.pool.retries_remaining == 2


def test_while_others_serve_a_failed_attempt_is_not_repeated_at_once(ready):
    ready.ask("busy")
    ready.refuse = True
    for name in range(100):
        ready.ask(name)
    assert len(ready.made) == 2
    ready.clock.advance(0.9)
    assert len(ready.made) == 2
    ready.refuse = False
    ready.clock.advance(0.1)
    assert len(ready.made) == 3
    assert ready.pool.retries_remaining == 2


def test_what_waits_for_too_long_fails_each_at_its_own_time(ready):
    ready.ask("busy")
    ready.ask("early")
    ready.clock.advance(30.0)
    ready.ask("late")
    ready.clock.advance(29.9)
    assert ready.outcomes == {}
    ready.clock.advance(0.1)
    assert ready.outcomes == {"early": "no connection was free for 60 s"}
    assert ready.timed_out == [1]
    ready.clock.advance(30.0)
    assert ready.timed_out == [1, 1]
    assert set(ready.outcomes) == {"early", "late"}
    assert ready.pool.waiting == 0


def test_those_that_fail_in_one_turn_are_counted_together_before_they_fail(ready):
    ready.ask("busy")
    ready.told.clear()
    for name in ("a", "b", "c"):
        ready.ask(name)
    ready.pool._on_queue_timeout = lambda count: ready.timed_out.append((count, dict(ready.outcomes)))
    ready.clock.advance(60.0)
    assert ready.timed_out == [(3, {})]
    assert set(ready.outcomes) == {"a", "b", "c"}


def test_the_oldest_in_flight_is_that_of_all_connections(ready):
    assert ready.pool.oldest_in_flight == 0.0
    ready.ask("a")
    ready.ask("b")
    ready.made[1].become_ready()
    ready.made[0].in_flight, ready.made[1].in_flight = 2.0, 3.0
    assert ready.pool.oldest_in_flight == 3.0


def test_idle_connections_are_closed_one_at_a_time_the_one_used_longest_ago_first(ready):
    for name in range(3):
        ready.ask(name)
    ready.made[1].become_ready()
    ready.made[2].become_ready()
    for connection in ready.made[:3]:
        connection.answer()
        ready.clock.advance(10.0)
    told = len(ready.told)
    ready.clock.advance(3570.0)
    assert [each.closed for each in ready.made] == [True, False, False]
    ready.ask("again")  # on the one used last, which stays young by that
    ready.clock.advance(10.0)
    assert [each.closed for each in ready.made] == [True, True, False]
    ready.made[2].answer()
    ready.clock.advance(3599.0)
    assert not ready.made[2].closed
    ready.clock.advance(1.0)
    assert ready.made[2].closed
    assert ready.pool.state is HostState.READY
    assert ready.told[told:] == [None] * 3  # nothing is wrong with that


def test_a_host_that_was_dead_is_alive_also_when_its_connection_is_soon_closed_as_idle():
    host = Host(idle_timeout=0.5)
    host.refuse = True
    host.ask(1)
    host.ask(2)
    assert host.pool.state is HostState.DEAD
    host.refuse = False
    host.clock.advance(1.0)
    host.made[-1].become_ready()
    host.clock.advance(0.5)
    assert host.open == []
    assert host.pool.state is HostState.READY
    host.ask(3)
    host.made[-1].become_ready()
    host.made[-1].answer()
    assert host.outcomes[3] == "reply"


def test_a_disabled_host_refuses_and_makes_no_attempt_until_it_is_enabled(ready):
    for name in range(7):
        ready.ask(name)
    ready.pool.disable()
    assert ready.pool.state is HostState.DISABLED
    assert set(ready.outcomes) == {1, 2, 3, 4, 5, 6}
    ready.ask("refused")
    assert ready.outcomes["refused"] == "the host is disabled"
    ready.made[0].answer()
    assert ready.outcomes[0] == "reply"
    assert ready.made[0].closed
    for connection in ready.open:
        connection.become_ready()
    assert ready.open == []
    ready.clock.advance(1000.0)
    ready.pool.reset_retries()
    ready.pool.open()
    assert ready.open == []
    ready.pool.enable()
    ready.open[0].become_ready()
    ready.ask("served")
    ready.open[0].answer()
    assert ready.outcomes["served"] == "reply"


def test_reset_retries_forgets_and_tries_at_once(host):
    host.refuse = True
    host.ask(1)
    host.ask(2)
    assert host.pool.state is HostState.DEAD
    host.refuse = False
    told = len(host.told)
    host.pool.reset_retries()
    assert len(host.told) == told + 1  # the state went from DEAD to connecting, never to ready
    assert host.pool.retries_remaining == 2
    assert host.pool.state is HostState.CONNECTING
    assert len(host.open) == 1
    host.pool.reset_retries()
    assert len(host.open) == 1


def test_reset_retries_tries_at_once_for_who_waits_beside_connections_that_serve(ready):
    ready.ask("busy")
    ready.ask(1)
    ready.made[1].close("refused")
    assert len(ready.made) == 2
    ready.pool.reset_retries()
    ready.made[2].become_ready()
    ready.made[2].answer()
    assert ready.outcomes == {1: "reply"}


def test_a_dropped_transaction_is_never_started(ready):
    ready.ask(1)
    dropped = ready.ask(2)
    ready.ask(3)
    ready.pool.drop_transaction(dropped)
    ready.made[0].answer()
    assert ready.made[0].transaction.request == b"3\n"


def test_an_idle_connection_that_ends_is_not_used_again(ready):
    ready.made[0].close("lond closed it")
    assert len(ready.pool) == 0
    ready.ask(1)
    assert len(ready.made) == 2


def test_an_idle_connection_that_has_ended_unnoticed_costs_no_request(ready):
    ready.ask(1)
    ready.ask(2)
    ready.made[1].become_ready()
    ready.made[0].answer()
    ready.made[1].answer()
    for connection in ready.made:
        connection.ended = True
    ready.ask(3)
    assert ready.open == [ready.made[2]]
    ready.made[2].become_ready()
    ready.made[2].answer()
    assert ready.outcomes[3] == "reply"


def test_draining_closes_what_is_idle_and_finishes_the_rest(ready):
    ready.ask(1)
    ready.ask(2)
    ready.made[1].become_ready()
    ready.made[1].answer()
    ready.pool.drain()
    assert ready.pool.state is HostState.DRAINING
    ready.pool.close_idle()
    assert ready.made[1].closed
    ready.ask(3)
    ready.made[0].answer()
    ready.made[0].answer()
    assert ready.outcomes == {1: "reply", 2: "reply", 3: "reply"}


def test_once_shut_nothing_is_sent_on_a_connection_that_was_idle(ready):
    ready.ask(1)
    ready.ask(2)
    ready.made[1].become_ready()
    ready.made[1].answer()  # idle, beside a busy one
    busy = ready.made[0]
    busy.transaction.abandon()
    busy.transaction = Asked(b"x\n", pytest.fail, lambda _: ready.ask(3))
    ready.pool.shut_down("over")
    assert ready.outcomes[3] == "over"
    assert all(each.started == 1 for each in ready.made)


def test_once_shut_everything_fails_at_once(ready):
    for name in range(3):
        ready.ask(name)
    ready.pool.shut_down("over")
    assert set(ready.outcomes) == {0, 1, 2}
    ready.ask(3)
    assert ready.outcomes[3] == "over"
    assert ready.open == []
    assert ready.statistics.failed == 4


def test_dead_lasts_until_an_attempt_succeeds_and_retries_never_fall_below_0(host):
    host.refuse = True
    host.ask(1)
    host.ask(2)
    assert host.pool.state is HostState.DEAD
    host.refuse = False
    for _ in range(3):
        host.clock.advance(8.0)
        assert len(host.open) == 1  # the attempt itself changes nothing
        assert (host.pool.state, host.pool.retries_remaining) == (HostState.DEAD, 0)
        host.open[0].close("timed out")
        assert (host.pool.state, host.pool.retries_remaining) == (HostState.DEAD, 0)
    host.clock.advance(8.0)
    host.open[0].become_ready()
    assert host.pool.state is HostState.READY


def test_a_success_ends_the_wait_for_a_retry(ready):
    """After a failed attempt no other starts before the retry delay, unless one succeeds meanwhile."""
    for name in range(3):
        ready.ask(name)
    ready.made[1].close("refused")
    ready.ask(3)
    assert len(ready.open) == 2
    ready.made[2].become_ready()
    assert len(ready.open) == 4  # at once, one for each that waits
    ready.made[0].answer()
    ready.made[2].answer()
    for connection in ready.made[3:]:
        connection.become_ready()
    made = len(ready.made)
    ready.clock.advance(1.0)
    assert len(ready.made) == made


def test_after_a_success_nothing_is_due_at_the_time_of_the_retry(host):
    host.pool.open()
    host.made[0].close("refused")
    host.pool.reset_retries()
    host.made[1].become_ready()
    host.clock.advance(0.5)
    host.pool.close_idle()
    host.clock.advance(10.0)
    assert len(host.made) == 2


def test_no_attempt_is_repeated_for_its_own_sake_while_draining(host):
    host.pool.open()
    host.pool.drain()
    host.made[0].close("refused")
    host.clock.advance(100.0)
    assert len(host.made) == 1


def test_draining_ends_the_retries_that_had_begun_before(host):
    host.pool.open()
    host.made[0].close("refused")
    host.pool.drain()
    host.clock.advance(100.0)
    assert len(host.made) == 1


def test_while_draining_a_failed_attempt_beside_a_busy_connection_is_repeated_after_a_delay(ready):
    ready.ask("busy")
    ready.pool.drain()
    ready.refuse = True
    ready.ask("waiting")
    assert len(ready.made) == 2
    ready.refuse = False
    ready.clock.advance(1.0)
    ready.made[2].become_ready()
    ready.made[2].answer()
    assert ready.outcomes["waiting"] == "reply"


def test_there_are_no_more_connections_than_descriptors(ready):
    ready.descriptors = 2
    for name in range(4):
        ready.ask(name)
    assert len(ready.made) == 2
    ready.descriptors = 3
    ready.ask(4)
    assert len(ready.made) == 3


def test_reset_retries_forgets_how_long_the_delays_have_grown(host):
    host.pool.open()
    host.made[0].close("refused")  # the next delay would be 2
    host.pool.reset_retries()
    host.made[1].close("refused")
    host.clock.advance(1.0)
    assert len(host.made) == 3


def test_a_connection_that_has_lasted_ends_the_growth_of_the_delays(host):
    host.pool.open()
    host.made[0].close("refused")
    host.clock.advance(1.0)
    host.made[1].become_ready()
    host.clock.advance(1.0)
    host.made[1].close("reset")
    host.pool.open()
    host.made[2].close("refused")
    host.clock.advance(1.0)
    assert len(host.made) == 4


def test_a_retry_beside_connections_that_serve_starts_only_while_something_waits(ready):
    ready.ask("busy")
    waiting = ready.ask("waiting")
    ready.made[1].close("refused")
    ready.pool.drop_transaction(waiting)
    ready.clock.advance(1.0)
    assert len(ready.made) == 2


def test_a_delayed_transaction_waits_a_second_for_others_and_it_never_waits_too_long(
    ready,
):
    ended = []
    ready.ask("busy")
    delayed = Asked(b"delayed\n", ended.append, pytest.fail)
    ready.pool.queue_delayed(delayed)
    ready.ask("next")
    ready.clock.advance(0.9)
    ready.made[0].answer()
    assert ready.made[0].transaction.request == b"'next'\n"
    ready.clock.advance(100.0)
    ready.made[0].answer()
    assert ready.made[0].transaction is delayed
    ready.made[0].answer()
    assert ended == [b"reply\n"]


@pytest.fixture
def crowded():
    """Three connections that are busy with 0, 1 and 2, while 3 to 9 wait."""
    host = Host(max_connections=3)
    host.pool.open()
    host.made[0].become_ready()
    for name in range(10):
        host.ask(name)
    for connection in host.made[1:]:
        connection.become_ready()
    assert len(host.busy) == 3
    return host


def queue_delayed(host, name, since=None):
    delayed = Asked(name, lambda _: host.ended(name, "reply"), lambda why: host.ended(name, why))
    host.pool.queue_delayed(delayed, since)
    return delayed


def requests(host):
    return [each.transaction.request for each in host.made]


def test_a_delayed_transaction_that_has_waited_for_a_second_goes_ahead_of_clients(crowded):
    queue_delayed(crowded, b"delayed")
    crowded.clock.advance(0.9)
    crowded.made[0].answer()
    assert requests(crowded) == [b"3\n", b"1\n", b"2\n"]
    crowded.clock.advance(0.1)
    crowded.made[1].answer()
    assert requests(crowded) == [b"3\n", b"delayed", b"2\n"]


def test_delayed_transactions_hold_one_place_at_most_while_clients_wait(crowded):
    for name in (b"a", b"b", b"c"):
        queue_delayed(crowded, name, crowded.clock.now - 1.0)
    crowded.made[0].answer()
    crowded.made[1].answer()
    crowded.made[2].answer()
    assert requests(crowded) == [b"a", b"3\n", b"4\n"]
    crowded.made[0].answer()  # the place that it had is a client's next
    assert requests(crowded) == [b"5\n", b"3\n", b"4\n"]
    crowded.made[1].answer()
    assert requests(crowded) == [b"5\n", b"b", b"4\n"]
    crowded.made[1].close("reset")
    crowded.made[2].answer()
    assert crowded.made[2].transaction.request == b"c"


def test_where_there_is_one_connection_clients_and_delayed_transactions_take_turns(ready):
    one = Host(max_connections=1)
    one.pool.open()
    one.made[0].become_ready()
    for name in range(4):
        one.ask(name)
    for name in (b"a", b"b"):
        queue_delayed(one, name, one.clock.now - 1.0)
    order = []
    for _ in range(6):
        order += requests(one)
        one.made[0].answer()
    assert order == [b"0\n", b"a", b"1\n", b"b", b"2\n", b"3\n"]
    assert not one.pool._delayed_matter


def test_delayed_transactions_open_connections_to_be_carried_out_side_by_side(ready):
    for name in (b"a", b"b"):
        queue_delayed(ready, name)
    ready.made[1].become_ready()
    assert requests(ready) == [b"a", b"b"]


def test_a_delayed_transaction_connects_by_itself_and_fails_with_a_dead_host(host):
    ended = []
    host.pool.queue_delayed(Asked(b"delayed\n", pytest.fail, ended.append))
    host.made[0].close("refused")
    assert ended == ["an attempt failed: refused"]
    host.clock.advance(1.0)
    host.made[1].close("refused")
    host.pool.queue_delayed(Asked(b"delayed\n", pytest.fail, ended.append))
    assert ended[1:] == ["the host is DEAD"]


def test_a_delayed_transaction_that_is_taken_back_fails(ready):
    ended = []
    ready.ask("busy")
    delayed = Asked(b"delayed\n", pytest.fail, ended.append)
    ready.pool.queue_delayed(delayed)
    ready.pool.drop_transaction(delayed)
    assert ended == ["it is not wanted any more"]
    ready.made[0].answer()
    assert ready.made[0].transaction is None


def test_what_a_failure_calls_back_finds_it_all_done(host):
    """A client whose transaction fails may send the next at once: it is refused if the host is DEAD."""
    host.ask("first")
    host.made[0].close("refused")
    host.pool.queue_transaction(Asked(b"1\n", pytest.fail, lambda _: host.ask("next")))
    host.made[-1].close("refused")
    assert host.outcomes["next"] == "the host is DEAD"
    assert len(host.made) == 2


def test_the_client_of_a_lost_transaction_finds_the_host_dead_if_that_was_its_last_retry():
    host = Host(connect_retries=1)
    host.pool.open()
    host.made[0].become_ready()
    host.pool.queue_transaction(Asked(b"1\n", pytest.fail, lambda _: host.ask("next")))
    host.made[0].close("reset")
    assert host.outcomes == {"next": "the host is DEAD"}
    assert len(host.made) == 1


def test_the_lost_transaction_fails_before_those_that_wait(host):
    host = Host(max_connections=1, connect_retries=1)
    host.pool.open()
    host.made[0].become_ready()
    host.ask("lost")
    host.ask("waiting")
    host.made[0].close("reset")
    assert list(host.outcomes) == ["lost", "waiting"]


def test_the_census_differs_after_each_change(host):
    seen = [host.pool.census]
    host.pool.open()
    seen.append(host.pool.census)
    host.made[0].become_ready()
    seen.append(host.pool.census)
    host.ask(1)
    seen.append(host.pool.census)
    host.ask(2)
    seen.append(host.pool.census)
    assert len(set(seen)) == 5
    assert (host.pool.attempting, host.pool.busy, len(host.pool)) == (1, 1, 2)


def test_a_request_for_a_dead_host_causes_an_attempt_if_the_last_is_5_s_old(host):
    host.refuse = True
    for name in range(2):
        host.ask(name)
    host.clock.advance(20.0)  # the delays have grown: the next retry comes 24 s after the start
    made = len(host.made)
    host.ask("asker")
    assert host.outcomes["asker"] == "the host is DEAD"
    assert len(host.made) == made + 1
    host.clock.advance(4.9)
    host.ask("early")
    assert len(host.made) == made + 1
    host.refuse = False
    host.clock.advance(0.1)
    host.ask("next")
    assert len(host.made) == made + 2
    host.clock.advance(30.0)
    host.ask("beside an attempt")
    assert len(host.made) == made + 2
    host.made[-1].become_ready()
    host.ask("served")
    assert host.busy


def test_a_disabled_host_is_not_tried_when_asked(host):
    host.pool.disable()
    host.clock.advance(100.0)
    host.ask(1)
    assert host.made == []


def all_idle(host, count=3):
    for name in range(count):
        host.ask(name)
    for connection in host.made[1:]:
        connection.become_ready()
    for connection in list(host.busy):
        connection.answer()
    assert len(host.open) == count
    host.outcomes.clear()
    host.clock.advance(2.0)


def test_if_a_connection_had_ended_while_it_was_idle_those_idle_for_as_long_are_closed(ready):
    all_idle(ready)
    ready.ask("kept")
    ready.ask("lost")
    lost, kept = ready.busy
    ready.clock.advance(1.0)
    kept.answer()
    lost.lose()
    assert ready.outcomes == {"kept": "reply", "lost": "lost a connection: reset"}
    assert ready.open == [kept]  # it has been used since
    assert ready.pool.retries_remaining == 2


def test_after_a_crash_one_request_is_lost(ready):
    all_idle(ready)
    ready.ask("lost")
    ready.busy[0].lose()
    assert ready.open == []
    ready.ask("next")
    ready.open[0].become_ready()
    ready.open[0].answer()
    assert ready.outcomes["next"] == "reply"


def test_a_connection_that_is_lost_with_a_part_of_its_reply_says_nothing_about_others(ready):
    all_idle(ready)
    ready.ask("lost")
    ready.busy[0].close("reset")
    assert len(ready.open) == 2


def test_a_machine_that_vanishes_while_nobody_asks_is_noticed(ready):
    all_idle(ready, 2)
    for connection in ready.open[:2]:
        connection.vanished = True
        connection.close("timed out")
    assert len(ready.open) == 1
    ready.open[0].close("no answer")
    ready.clock.advance(1.0)
    ready.open[0].close("no answer")
    assert ready.pool.state is HostState.DEAD


@pytest.fixture
def hanging():
    """A pool of 2 connections, of which one hangs."""
    host = Host(max_connections=2)
    host.pool.open()
    host.made[0].become_ready()
    host.clock.advance(2.0)
    host.ask("hangs")
    return host


def test_attempts_that_fail_beside_silent_connections_make_the_host_dead(hanging):
    hanging.ask("waits")
    hanging.clock.advance(1.0)
    hanging.made[1].close("no answer")
    assert hanging.pool.state is HostState.CONNECTING
    assert hanging.outcomes == {}
    hanging.clock.advance(1.0)
    hanging.made[2].close("no answer")
    assert hanging.pool.state is HostState.DEAD
    assert hanging.outcomes == {"waits": "an attempt failed: no answer"}
    hanging.ask("refused")
    assert hanging.outcomes["refused"] == "the host is DEAD"
    hanging.made[0].answer()
    assert hanging.pool.state is HostState.READY
    assert hanging.pool.retries_remaining == 2
    assert hanging.outcomes["hangs"] == "reply"


@pytest.mark.parametrize("who", ["another", "the attempt itself"])
def test_attempts_that_fail_while_a_byte_has_come_do_not_count(hanging, who):
    hanging.ask("waits")
    hanging.clock.advance(1.0)
    if who == "another":
        hanging.made[0].heard_at = hanging.clock.now
    else:
        hanging.made[1].heard = True
    hanging.made[1].close("no answer")
    assert hanging.pool.state is HostState.READY
    assert hanging.pool.retries_remaining == 2


def test_reset_retries_tries_at_once_beside_silent_connections(hanging):
    hanging.ask("waits")
    hanging.clock.advance(1.0)
    hanging.made[1].close("no answer")
    hanging.pool.reset_retries()
    assert len(hanging.open) == 2
    hanging.open[1].become_ready()
    assert hanging.pool.state is HostState.READY
    assert hanging.open[1].transaction.request == b"'waits'\n"


def test_if_all_connections_are_silent_while_a_request_waits_one_more_is_tried():
    host = Host(max_connections=1)
    host.pool.open()
    host.made[0].become_ready()
    host.ask("hangs")
    host.clock.advance(5.0)
    host.ask("waits")
    host.clock.advance(9.9)
    assert len(host.made) == 1
    host.clock.advance(0.1)
    assert len(host.made) == 2
    host.made[1].close("no end of the dialogue")
    host.clock.advance(1.0)
    host.made[2].close("no end of the dialogue")
    assert host.pool.state is HostState.DEAD
    assert host.outcomes == {"waits": "an attempt failed: no end of the dialogue"}
    assert host.made[0].transaction is not None
    host.made[0].answer()
    assert host.pool.state is HostState.READY


def test_a_probe_that_succeeds_is_closed_and_the_request_goes_on_waiting():
    host = Host(max_connections=1)
    host.pool.open()
    host.made[0].become_ready()
    host.clock.advance(1.0)
    host.ask("hangs")
    host.ask("waits")
    host.clock.advance(10.0)
    assert host.made[1].probe
    host.made[1].become_ready()
    assert host.made[1].closed
    assert host.pool.state is HostState.READY
    host.clock.advance(9.9)
    assert len(host.made) == 2
    host.made[0].heard_at = host.clock.now  # a part of a reply
    host.clock.advance(9.0)
    assert len(host.made) == 2


def test_a_connection_that_is_too_old_is_closed_when_it_is_idle():
    host = Host(max_lifetime=100.0)
    host.pool.open()
    host.made[0].become_ready()
    host.clock.advance(50.0)
    for name in range(2):
        host.ask(name)
    host.made[1].become_ready()
    host.clock.advance(50.0)
    assert len(host.open) == 2
    host.ask("waits")
    host.made[0].answer()  # too old, but a request waits
    assert host.made[0].transaction.request == b"'waits'\n"
    host.made[0].answer()
    assert host.made[0].closed
    host.made[1].answer()
    host.clock.advance(49.9)
    assert not host.made[1].closed
    host.clock.advance(0.1)
    assert host.made[1].closed
    assert host.open == [host.made[2]]


class AnyRun(RuleBasedStateMachine):
    """Whatever happens in whatever order: never more connections than the most, no transaction ends
    twice or is forgotten, and none waits while nothing is there or on its way to serve it. Until the
    host is known to live there is one attempt at a time, and if there is none, there will be."""

    @initialize(most=st.integers(1, 4), retries=st.integers(1, 3), idle=st.sampled_from([0.5, 3600.0]))
    def begin(self, most, retries, idle):
        self.most = most
        self.host = Host(most, retries, idle)
        self.asked = 0
        self.dropped = set()
        self.waiting = {}
        self.delayed = None
        self.host.pool.open()

    @rule(refuse=st.booleans())
    def ask(self, refuse):
        self.host.refuse = refuse
        self.waiting[self.asked] = self.host.ask(self.asked)
        self.asked += 1

    @precondition(lambda self: self.delayed is None)
    @rule(refuse=st.booleans())
    def ask_delayed(self, refuse):
        def ended(_):
            self.delayed = None

        self.host.refuse = refuse
        self.delayed = Asked(b"delayed\n", ended, ended)
        self.host.pool.queue_delayed(self.delayed)

    @precondition(lambda self: self.delayed is not None)
    @rule()
    def the_delayed_one_is_taken_back(self):
        self.host.pool.drop_transaction(self.delayed)

    @rule(refuse=st.booleans())
    def disable_or_enable(self, refuse):
        self.host.refuse = refuse
        pool = self.host.pool
        (pool.enable if pool._disabled else pool.disable)()

    @precondition(lambda self: any(not each.ready for each in self.host.open))
    @rule(data=st.data())
    def an_attempt_ends(self, data):
        connection = data.draw(st.sampled_from([each for each in self.host.open if not each.ready]))
        self.host.refuse = data.draw(st.booleans())
        if data.draw(st.booleans()):
            connection.become_ready()
        else:
            connection.close("refused")

    @precondition(lambda self: self.host.busy)
    @rule(data=st.data())
    def a_reply_comes(self, data):
        data.draw(st.sampled_from(self.host.busy)).answer()

    @precondition(lambda self: self.host.open)
    @rule(data=st.data())
    def a_connection_breaks(self, data):
        self.host.refuse = data.draw(st.booleans())
        data.draw(st.sampled_from(self.host.open)).close("broken")

    @precondition(lambda self: set(self.waiting) - set(self.host.outcomes))
    @rule(data=st.data())
    def a_client_leaves(self, data):
        alive = sorted(set(self.waiting) - set(self.host.outcomes))
        name = data.draw(st.sampled_from(alive))
        transaction = self.waiting.pop(name)
        transaction.abandon()
        self.host.pool.drop_transaction(transaction)
        self.dropped.add(name)

    @rule(seconds=st.floats(0.1, 100.0))
    def time_passes(self, seconds):
        self.host.refuse = False
        self.host.clock.advance(seconds)

    @rule()
    def the_child_is_to_leave(self):
        self.host.pool.drain()

    @rule()
    def somebody_resets_the_retries(self):
        self.host.pool.reset_retries()

    @invariant()
    def holds(self):
        host, pool = self.host, self.host.pool
        probes = sum(each.probe for each in host.open)
        assert len(host.open) == len(pool) <= self.most + probes
        assert probes <= 1
        assert not self.dropped & set(host.outcomes)
        # A dropped transaction that had been started still runs, unheard.
        running = len(set(self.waiting) - set(host.outcomes))
        delayed = sum(each.transaction is self.delayed for each in host.busy)
        assert running <= len(host.busy) - delayed + pool.waiting <= running + len(self.dropped)
        assert len(host.busy) == pool.busy
        if pool.waiting or (self.delayed is not None and not delayed):
            assert host.open, "something waits, and nothing is on its way"
            assert all(each.transaction or not each.ready for each in host.open), "idle beside a queue"
        assert host.statistics.done + host.statistics.failed >= len(host.outcomes)
        if pool.state is HostState.DEAD:
            assert pool.retries_remaining == 0
            assert host.open or pool._retry_at < math.inf, "it is never tried again"
        if pool.state in (HostState.DEAD, HostState.DISABLED):
            assert not pool.waiting, "it is told at once"
        if pool.state is not HostState.DRAINING:
            refuses = pool.state in (HostState.DEAD, HostState.DISABLED)
            assert (pool._queue_refusal is not None) == refuses, "who comes is told what is so"


AnyRun.TestCase.settings = settings(stateful_step_count=40)
TestAnyRun = AnyRun.TestCase
