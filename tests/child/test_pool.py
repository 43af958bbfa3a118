import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.asking import Asked
from support.pooled_host import Host

from lonc.child.reachability import HostState
from lonc.monitoring.statistics import Reason


def test_one_connection_is_opened_at_the_start(host):
    assert host.pool.state is HostState.READY
    host.pool.open()
    assert len(host.made) == 1
    assert host.pool.state is HostState.CONNECTING
    host.made[0].become_ready()
    assert host.pool.state is HostState.READY
    assert host.notified == [None, "connected"]


def test_a_transaction_goes_on_the_idle_connection(ready):
    ready.ask(1)
    ready.made[0].answer()
    assert ready.outcomes == {1: "reply"}
    assert ready.statistics.done == 1
    assert len(ready.made) == 1


def test_a_waiting_transaction_opens_another_connection_up_to_the_maximum(ready):
    for name in range(10):
        ready.ask(name)
    assert len(ready.made) == 5
    assert ready.pool.waiting == 9


def test_the_connection_used_last_is_used_next(ready):
    ready.ask(1)
    ready.ask(2)
    ready.made[1].become_ready()
    ready.made[0].answer()
    ready.made[1].answer()
    ready.ask(3)
    assert ready.made[1].transaction.request == b"3\n"


def test_the_connection_is_idle_before_its_reply_is_passed_on(ready):
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
    host.made[3].failure = Reason.REQUEST_TIMEOUT
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


def test_latency_counts_from_the_request_and_of_a_delayed_one_from_its_start(ready):
    ready.ask(1)
    for name in (2, 3):
        ready.ask(name)
        ready.pool.queue_delayed(Asked(b"x", lambda _: None, lambda _: None))
    ready.clock.advance(4.0)
    assert ready.pool.oldest_wait == 4.0
    for _ in range(5):
        ready.made[0].answer()
    assert ready.statistics.last_minute(ready.clock.now).latencies().percentile(1) == 4.0
    assert ready.statistics.seconds == 3 * 4.0


def test_the_wait_for_a_connection_and_the_time_of_lond_are_counted_apart():
    host = Host(max_connections=1)
    host.pool.open()
    host.made[0].become_ready()
    for name in (1, 2):
        host.ask(name)
    host.clock.advance(3.0)
    host.made[0].answer()
    host.clock.advance(0.5)
    host.made[0].answer()
    minute = host.statistics.last_minute(host.clock.now)
    assert minute.waits().percentiles() == {"p50": 0.0, "p90": 3.0, "p99": 3.0, "max": 3.0}
    assert minute.lond_times().percentiles() == {"p50": 0.5, "p90": 3.0, "p99": 3.0, "max": 3.0}
    assert minute.latencies().longest == 3.5


def test_a_delayed_transaction_has_not_waited_for_a_connection(ready):
    ready.ask(1)
    ready.pool.queue_delayed(Asked(b"x", lambda _: None, lambda _: None))
    ready.clock.advance(4.0)
    for _ in range(2):
        ready.made[0].answer()
    assert ready.statistics.last_minute(ready.clock.now).waits().longest == 0.0


def test_the_pool_is_saturated_while_each_of_the_most_connections_is_busy():
    host = Host(max_connections=2)
    host.pool.open()
    host.made[0].become_ready()
    host.ask(1)
    host.clock.advance(1.0)
    assert not host.is_saturated  # another connection may be opened
    host.ask(2)
    host.clock.advance(1.0)
    assert not host.is_saturated  # it is being opened
    host.made[1].become_ready()
    host.clock.advance(4.0)
    assert host.is_saturated
    host.ask(3)
    host.made[0].answer()
    assert host.is_saturated  # by the one that has waited
    host.made[0].answer()
    assert not host.is_saturated
    host.clock.advance(1.0)
    host.ask(4)
    host.clock.advance(0.5)
    host.made[1].close("it breaks")
    assert not host.is_saturated
    host.clock.advance(1.0)
    assert host.statistics.saturated_last_minute(host.clock.now) == 4.5


def test_a_delayed_transaction_makes_its_connection_busy_too():
    host = Host(max_connections=1)
    host.pool.open()
    host.made[0].become_ready()
    host.pool.queue_delayed(Asked(b"x", lambda _: None, lambda _: None))
    host.clock.advance(2.0)
    host.made[0].answer()
    assert host.statistics.saturated_last_minute(host.clock.now) == 2.0


def test_a_loss_of_the_last_connection_starts_an_attempt_for_waiting_transactions(host):
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


def test_a_lost_connection_is_replaced_for_waiting_transactions_even_beside_a_busy_one(ready):
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


def test_an_unproven_host_gets_one_attempt_and_its_failure_fails_waiting_transactions(host):
    host.ask(1)
    host.ask(2)
    assert len(host.made) == 1
    host.made[0].close("refused")
    assert host.outcomes == dict.fromkeys((1, 2), "an attempt failed: refused")
    assert host.pool.waiting == 0


def test_a_proven_host_gets_one_attempt_per_waiting_transaction(host):
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
    assert ready.pool.reachability.retries_remaining == 2
    ready.made[0].answer()
    ready.made[0].answer()
    assert ready.outcomes == {1: "reply", 2: "reply"}


def test_each_waiting_transaction_fails_at_its_own_timeout(ready):
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


def test_timeouts_of_one_turn_are_counted_together_before_they_fail(ready):
    ready.ask("busy")
    ready.notified.clear()
    for name in ("a", "b", "c"):
        ready.ask(name)
    ready.pool._on_queue_timeout = lambda count: ready.timed_out.append((count, dict(ready.outcomes)))
    ready.clock.advance(60.0)
    assert ready.timed_out == [(3, {})]
    assert set(ready.outcomes) == {"a", "b", "c"}


def test_the_oldest_transaction_in_flight_is_that_of_all_connections(ready):
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
    before = len(ready.notified)
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
    assert ready.notified[before:] == [None] * 3  # not an error


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


def test_draining_closes_idle_connections_and_finishes_the_busy_ones(ready):
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


def test_after_a_shutdown_no_request_is_sent_on_a_connection_that_was_idle(ready):
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


def test_after_a_shutdown_every_transaction_fails_at_once(ready):
    for name in range(3):
        ready.ask(name)
    ready.pool.shut_down("over")
    assert set(ready.outcomes) == {0, 1, 2}
    ready.ask(3)
    assert ready.outcomes[3] == "over"
    assert ready.open == []
    assert ready.statistics.failed == 4


def test_there_are_no_more_connections_than_descriptors(ready):
    ready.descriptors = 2
    for name in range(4):
        ready.ask(name)
    assert len(ready.made) == 2
    ready.descriptors = 3
    ready.ask(4)
    assert len(ready.made) == 3


def test_the_callback_of_a_failure_finds_the_final_state(host):
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


def test_the_lost_transaction_fails_before_the_waiting_ones(host):
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


def test_if_a_connection_ended_while_idle_those_idle_for_as_long_are_closed(ready):
    ready.make_idle(3)
    ready.ask("kept")
    ready.ask("lost")
    lost, kept = ready.busy
    ready.clock.advance(1.0)
    kept.answer()
    lost.lose()
    assert ready.outcomes == {"kept": "reply", "lost": "lost a connection: reset"}
    assert ready.open == [kept]  # it has been used since
    assert ready.pool.reachability.retries_remaining == 2


def test_after_a_crash_one_request_is_lost(ready):
    ready.make_idle(3)
    ready.ask("lost")
    ready.busy[0].lose()
    assert ready.open == []
    ready.ask("next")
    ready.open[0].become_ready()
    ready.open[0].answer()
    assert ready.outcomes["next"] == "reply"


def test_a_connection_lost_during_its_reply_closes_no_other(ready):
    ready.make_idle(3)
    ready.ask("lost")
    ready.busy[0].close("reset")
    assert len(ready.open) == 2


def test_a_connection_beyond_its_lifetime_is_closed_when_it_is_idle():
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
    """For any events in any order: never more connections than the most, no transaction ends
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
    def the_delayed_one_is_dropped(self):
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
        assert len(host.open) == len(pool) <= self.most + min(1, probes)
        assert not self.dropped & set(host.outcomes)
        # A dropped transaction that had been started still runs; its reply is discarded.
        running = len(set(self.waiting) - set(host.outcomes))
        delayed = sum(each.transaction is self.delayed for each in host.busy)
        assert running <= len(host.busy) - delayed + pool.waiting <= running + len(self.dropped)
        assert len(host.busy) == pool.busy
        assert host.is_saturated == (len(host.busy) >= self.most)
        if pool.waiting or (self.delayed is not None and not delayed):
            assert host.open, "a transaction waits, and no connection is open"
            assert all(each.transaction or not each.ready for each in host.open), "idle beside a queue"
        assert host.statistics.done + host.statistics.failed >= len(host.outcomes)
        if pool.state is HostState.DEAD:
            assert pool.reachability.retries_remaining == 0
            assert host.open or pool.reachability.retry_is_set, "no retry is due"
        if pool.state in (HostState.DEAD, HostState.DISABLED):
            assert not pool.waiting, "a transaction waits though it must fail at once"
        if pool.state is not HostState.DRAINING:
            refuses = pool.state in (HostState.DEAD, HostState.DISABLED)
            assert (pool._queue_refusal is not None) == refuses, (
                "new transactions are refused in other states"
            )


AnyRun.TestCase.settings = settings(stateful_step_count=40)
TestAnyRun = AnyRun.TestCase
