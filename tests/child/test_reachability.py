import pytest
from support.pooled_host import Host

from lonc.child.reachability import HostState


def test_failures_in_a_row_make_the_host_dead_and_a_success_makes_it_ready(host):
    for retries, state in ((1, HostState.CONNECTING), (0, HostState.DEAD)):
        host.ask(len(host.outcomes))
        host.made[-1].close("refused")
        assert host.pool.reachability.retries_remaining == retries
        assert host.pool.state is state
    host.clock.advance(1.0)
    assert host.pool.state is HostState.DEAD
    host.made[-1].become_ready()
    assert host.pool.state is HostState.READY
    host.clock.advance(1.0)
    assert host.pool.reachability.retries_remaining == 2


def test_when_a_host_becomes_dead_waiting_transactions_fail_though_other_attempts_continue(ready):
    ready.clock.advance(1.0)
    for name in range(4):
        ready.ask(name)
    ready.made[0].close("broken")
    ready.made[1].close("refused")
    assert set(ready.outcomes) == {0}
    ready.made[2].close("refused")
    assert ready.pool.state is HostState.DEAD
    assert set(ready.outcomes) == {0, 1, 2, 3}


def test_a_request_for_a_dead_host_fails_at_once_and_causes_no_attempt(host):
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


def test_a_host_whose_first_attempt_has_failed_is_tried_again(host):
    host.pool.open()
    host.made[0].close("refused")
    assert host.pool.state is HostState.CONNECTING
    host.clock.advance(1.0)
    host.made[1].become_ready()
    assert host.pool.state is HostState.READY


def test_a_retry_due_during_an_attempt_for_waiting_transactions_starts_no_other(host):
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
        assert host.pool.reachability.retries_remaining == retries
        host.clock.advance(retries * 1.0)
    assert host.pool.state is HostState.DEAD


@pytest.mark.parametrize("how", ["reply", "time"])
def test_a_connection_that_has_served_or_lasted_was_no_failed_attempt(host, how):
    host.ask(1)
    host.made[0].close("refused")
    host.ask(2)
    host.made[1].become_ready()
    if how == "reply":
        host.made[1].answer()
    else:
        host.clock.advance(1.0)
    host.made[1].close("reset")
    assert host.pool.reachability.retries_remaining == 2


def test_beside_serving_connections_a_failed_attempt_is_not_repeated_at_once(ready):
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
    assert ready.pool.reachability.retries_remaining == 2


def test_a_host_is_alive_after_an_attempt_even_if_its_connection_is_soon_closed_as_idle():
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


def test_reset_retries_forgets_and_tries_at_once(host):
    host.refuse = True
    host.ask(1)
    host.ask(2)
    assert host.pool.state is HostState.DEAD
    host.refuse = False
    before = len(host.notified)
    host.pool.reset_retries()
    assert len(host.notified) == before + 1  # the state went from DEAD to connecting, never to ready
    assert host.pool.reachability.retries_remaining == 2
    assert host.pool.state is HostState.CONNECTING
    assert len(host.open) == 1
    host.pool.reset_retries()
    assert len(host.open) == 1


def test_reset_retries_tries_at_once_for_waiting_transactions_beside_serving_connections(ready):
    ready.ask("busy")
    ready.ask(1)
    ready.made[1].close("refused")
    assert len(ready.made) == 2
    ready.pool.reset_retries()
    ready.made[2].become_ready()
    ready.made[2].answer()
    assert ready.outcomes == {1: "reply"}


def test_dead_lasts_until_an_attempt_succeeds_and_retries_never_fall_below_0(host):
    host.refuse = True
    host.ask(1)
    host.ask(2)
    assert host.pool.state is HostState.DEAD
    host.refuse = False
    for _ in range(3):
        host.clock.advance(8.0)
        assert len(host.open) == 1  # the attempt itself changes nothing
        assert (host.pool.state, host.pool.reachability.retries_remaining) == (HostState.DEAD, 0)
        host.open[0].close("timed out")
        assert (host.pool.state, host.pool.reachability.retries_remaining) == (HostState.DEAD, 0)
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


def test_while_draining_no_attempt_is_repeated_without_a_waiting_transaction(host):
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


def test_a_retry_beside_serving_connections_starts_only_for_a_waiting_transaction(ready):
    ready.ask("busy")
    waiting = ready.ask("waiting")
    ready.made[1].close("refused")
    ready.pool.drop_transaction(waiting)
    ready.clock.advance(1.0)
    assert len(ready.made) == 2


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


def test_a_request_for_a_disabled_host_causes_no_attempt(host):
    host.pool.disable()
    host.clock.advance(100.0)
    host.ask(1)
    assert host.made == []


def test_a_machine_that_vanishes_while_the_pool_is_idle_is_noticed(ready):
    ready.make_idle(2)
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
    assert hanging.pool.reachability.retries_remaining == 2
    assert hanging.outcomes["hangs"] == "reply"


@pytest.mark.parametrize("connection", ["another", "the attempt itself"])
def test_attempts_that_fail_while_a_byte_has_arrived_do_not_count(hanging, connection):
    hanging.ask("waits")
    hanging.clock.advance(1.0)
    if connection == "another":
        hanging.made[0].heard_at = hanging.clock.now
    else:
        hanging.made[1].heard = True
    hanging.made[1].close("no answer")
    assert hanging.pool.state is HostState.READY
    assert hanging.pool.reachability.retries_remaining == 2


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


def test_a_probe_serves_in_place_of_a_connection_that_is_not_acknowledged():
    host = Host(max_connections=1)
    host.pool.open()
    host.made[0].become_ready()
    host.clock.advance(1.0)
    for name in ("hangs", "waits", "waits too"):
        host.ask(name)
    host.made[0].acknowledged = False
    host.clock.advance(10.0)
    stuck, probe = host.made
    probe.become_ready()
    assert probe.transaction is not None
    probe.answer()
    host.clock.advance(30.0)  # the probe itself is silent by now: there is no other beside it
    assert host.made == [stuck, probe]
    probe.answer()
    assert probe.closed  # nothing waits, and one connection is allowed
    assert not stuck.closed
    assert host.outcomes == {"waits": "reply", "waits too": "reply"}


def test_a_probe_that_serves_is_one_of_all_when_the_other_has_ended():
    host = Host(max_connections=1)
    host.pool.open()
    host.made[0].become_ready()
    host.clock.advance(1.0)
    for name in ("hangs", "waits"):
        host.ask(name)
    host.made[0].acknowledged = False
    host.clock.advance(10.0)
    stuck, probe = host.made
    probe.become_ready()
    stuck.close("Connection timed out")
    probe.answer()
    assert host.open == [probe]
    assert host.outcomes == {"waits": "reply", "hangs": "lost a connection: Connection timed out"}


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
