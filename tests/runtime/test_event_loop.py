import contextlib
import os
import signal
import socket
import time
from typing import Any

import pytest
from support.clock import FakeClock

from lonc.runtime.event_loop import LONGEST_WAIT, READ, EventLoop


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def loop(clock):
    loop = EventLoop(clock)
    yield loop
    loop.close()


@pytest.fixture
def real_loop():
    """A loop with the real clock."""
    loop = EventLoop()
    yield loop
    loop.close()


@pytest.fixture
def pair():
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def test_a_readable_descriptor_calls_back_until_it_is_read(loop, pair):
    here, there = pair
    calls = []
    loop.watch(here, lambda: calls.append("readable"))
    there.send(b"x")
    loop.turn()
    loop.turn()
    assert calls == ["readable"] * 2
    here.recv(1)
    loop.turn(0)
    assert calls == ["readable"] * 2


def test_writability_is_reported_only_while_wanted(loop, pair):
    calls = []
    watch = loop.watch(pair[0], lambda: None, lambda: calls.append("writable"))
    loop.turn(0)
    watch.want(write=True)
    loop.turn()
    watch.want(write=False)
    loop.turn(0)
    assert calls == ["writable"]


def test_a_forgotten_watch_is_not_called_even_in_the_same_turn(loop, pair):
    other = socket.socketpair()
    watches, calls = [], []

    def first_come(name):
        calls.append(name)
        for watch in watches:
            watch.forget()

    for end, name in ((pair[0], "a"), (other[0], "b")):
        watches.append(loop.watch(end, lambda name=name: first_come(name)))
    pair[1].send(b"x")
    other[1].send(b"x")
    loop.turn()
    loop.turn(0)
    assert len(calls) == 1
    for end in other:
        end.close()


def test_a_descriptor_closed_and_reused_in_the_same_turn_is_not_taken_for_the_old_one(loop, pair):
    others = [socket.socketpair(), socket.socketpair()]
    calls: list[Any] = []

    def replace(index):
        old = others[1 - index][0]
        number = old.fileno()
        watches[1 - index].forget()
        watches[index].forget()
        old.close()
        assert os.dup2(pair[0].fileno(), number) == number  # the number lives on, another's
        calls.append(loop.watch(socket.socket(fileno=number), lambda: calls.append("wrong")))

    watches = [loop.watch(others[i][0], lambda i=i: replace(i)) for i in (0, 1)]
    for _, there in others:
        there.send(b"x")
    loop.turn()
    assert len(calls) == 1
    calls[0].file.close()
    for ends in others:
        for end in ends:
            end.close()


def test_with_no_interest_only_the_end_of_the_other_side_is_reported(loop, pair):
    here, there = pair
    calls = []
    watch = loop.watch(here, lambda: calls.append("readable"), on_hangup=lambda: calls.append("hangup"))
    watch.want(read=False)
    there.send(b"x")
    there.shutdown(socket.SHUT_WR)
    loop.turn(0)
    assert calls == []
    there.close()
    loop.turn(1)
    assert calls == ["hangup"]
    watch.want(read=True)
    loop.turn(1)
    assert calls == ["hangup", "readable"]
    watch.forget()
    loop.turn(0)
    assert len(calls) == 2


def test_a_hangup_is_not_reported_to_a_forgotten_watch(loop, pair):
    watch = loop.watch(pair[0], lambda: None, on_hangup=lambda: pytest.fail("called"))
    watch.want(read=False)
    pair[1].close()
    watch.forget()
    watch.forget()
    loop.turn(0)
    assert not loop._hangup_watches  # else they would keep the watch and all that it refers to
    with pytest.raises(AssertionError, match="forgotten"):
        watch.want(read=True)


def test_an_unchanged_interest_costs_no_system_call(loop, pair):
    watch = loop.watch(pair[0], lambda: None)
    loop._selector.close()  # the next epoll_ctl would raise
    watch.want(read=True, write=False)
    assert watch.events == READ
    loop._selector = EventLoop()._selector


def test_deadlines_come_in_their_order_and_not_before_their_time(loop, clock):
    calls = []
    for delay in (30, 10, 20):
        loop.after(delay, lambda delay=delay: calls.append(delay))
    loop.after(15, lambda: calls.append("cancelled")).cancel()
    for seconds, due in (
        (9, []),
        (1, [10]),
        (9, [10]),
        (1, [10, 20]),
        (100, [10, 20, 30]),
        (100, [10, 20, 30]),
    ):
        clock.advance(seconds)
        loop.turn(0)
        assert calls == due


def test_a_turn_waits_until_the_nearest_deadline_but_at_most_its_argument(real_loop):
    calls = []
    begun = real_loop.now
    real_loop.after(0.05, lambda: calls.append(real_loop.now - begun))
    real_loop.after(3600, lambda: pytest.fail("called"))
    real_loop.turn(0.001)
    assert calls == []
    while not calls:
        real_loop.turn(60)
    assert 0.05 <= calls[0] < 30


def test_a_deadline_may_be_months_away(real_loop, pair):
    """epoll itself waits for at most 2**31 - 1 milliseconds, which is 24.8 days."""
    readable = []
    real_loop.watch(pair[0], lambda: readable.append(True))
    real_loop.after(30 * 86400, lambda: pytest.fail("called"))
    pair[1].send(b"x")
    real_loop.turn()
    real_loop.turn(60 * 86400)
    assert readable == [True] * 2


def test_a_deadline_months_away_is_called_at_its_time(loop, clock):
    calls = []
    loop.after(30 * 86400, lambda: calls.append("due"))
    for _ in range(30):
        clock.advance(86400 - 1)
        loop.turn(0)
    assert calls == []
    clock.advance(30)
    loop.turn(0)
    assert calls == ["due"]


def test_deadlines_of_the_same_moment_come_in_the_order_in_which_they_were_set(loop):
    calls = []
    for number in range(10):
        loop.after(0, lambda number=number: calls.append(number))
    loop.turn()
    assert calls == list(range(10))


def test_a_deadline_set_by_a_deadline_waits_for_the_next_turn(loop):
    calls = []
    loop.after(0, lambda: loop.after(0, lambda: calls.append("second")))
    loop.turn()
    assert calls == []
    loop.turn()
    assert calls == ["second"]


def test_a_deadline_that_another_of_the_same_turn_cancels_is_not_called(loop):
    loop.after(0, lambda: second.cancel())
    second = loop.after(0, lambda: pytest.fail("called"))
    loop.turn()
    loop.turn(0)


def test_data_that_arrives_while_the_loop_is_delayed_is_read_before_the_deadline(loop, clock, pair):
    """The process may be stopped for long between its look at the descriptors and the deadlines."""
    calls = []

    def read():
        pair[0].recv(100)
        calls.append("readable")
        deadline.cancel()

    select = loop._selector.select

    def held_up(timeout):
        ready = select(0)
        clock.advance(5)
        pair[1].send(b"x")
        loop._selector.select = select
        return ready

    loop._selector.select = held_up
    loop.watch(pair[0], read)
    deadline = loop.after(3, lambda: calls.append("too late"))
    loop.turn(0)
    assert calls == []
    loop.turn(0)
    loop.turn(0)
    assert calls == ["readable"]


def test_a_callback_sees_the_time_after_the_wait(loop, clock, pair):
    seen = []
    loop.watch(pair[0], lambda: seen.append(loop.now))
    pair[1].send(b"x")
    clock.advance(7)
    loop.turn(0)
    assert seen == [clock.now]


def test_a_deadline_counts_from_when_it_is_set_however_long_the_turn(loop, clock):
    calls = []

    def hold_up():
        clock.advance(50)
        loop.after(40, lambda: calls.append("due"))

    loop.after(0, hold_up)
    loop.turn(0)
    clock.advance(39)
    loop.turn(0)
    assert calls == []
    clock.advance(1)
    loop.turn(0)
    assert calls == ["due"]


class TestAlarm:
    def test_it_rings_once_at_the_earliest_time_that_it_was_set_for(self, loop, clock):
        rung = []
        alarm = loop.alarm(lambda: rung.append(loop.now))
        for seconds in (30, 10, 20):
            alarm.ring_by(clock.now + seconds)
        for _ in range(40):
            clock.advance(1)
            loop.turn(0)
        assert rung == [1010.0]

    def test_a_later_time_costs_no_deadline(self, loop):
        alarm = loop.alarm(lambda: None)
        for later in (0, 0, 1, 100):
            alarm.ring_by(2000.0 + later)
        assert len(loop._deadlines) == 1

    def test_its_callback_may_set_it_again(self, loop, clock):
        rung = []

        def ring():
            rung.append(loop.now)
            alarm.ring_by(loop.now + 10)

        alarm = loop.alarm(ring)
        alarm.ring_by(clock.now + 10)
        for _ in range(35):
            clock.advance(1)
            loop.turn(0)
        assert rung == [1010.0, 1020.0, 1030.0]

    def test_it_does_not_ring_once_it_is_cancelled_until_it_is_set_again(self, loop, clock):
        rung = []
        alarm = loop.alarm(lambda: rung.append(loop.now))
        alarm.ring_by(clock.now + 10)
        alarm.cancel()
        clock.advance(20)
        loop.turn(0)
        assert rung == []
        alarm.ring_by(clock.now + 10)
        clock.advance(10)
        loop.turn(0)
        assert rung == [1030.0]


def test_run_turns_until_stopped(loop):
    turns = []

    def turn():
        turns.append(1)
        if len(turns) == 3:
            loop.stop()
        loop.after(0, turn)

    loop.after(0, turn)
    loop.run()
    assert len(turns) == 3


@pytest.fixture
def handlers():
    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    before = {signum: signal.getsignal(signum) for signum in numbers}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_a_signal_wakes_the_loop_and_calls_back_in_its_turn(loop, handlers):
    calls = []
    loop.on_signal(signal.SIGUSR1, lambda: calls.append("USR1"))
    os.kill(os.getpid(), signal.SIGUSR1)
    assert calls == []  # nothing is done in the handler
    loop.turn(5)
    assert calls == ["USR1"]


def test_a_flood_of_one_signal_does_not_lose_another_and_prints_nothing(loop, handlers, capfd):
    calls = set()
    loop.on_signal(signal.SIGUSR1, lambda: calls.add("USR1"))
    loop.on_signal(signal.SIGUSR2, lambda: calls.add("USR2"))
    _here, there = loop._wakeup
    there.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while there.send(bytes(65536)):  # as full as a flood could make it
            pass
    os.kill(os.getpid(), signal.SIGUSR2)
    loop.turn(5)
    assert calls == {"USR2"}
    assert capfd.readouterr().err == ""


def test_signals_of_two_kinds_are_both_called_in_one_turn(loop, handlers):
    calls = []
    loop.on_signal(signal.SIGUSR1, lambda: calls.append("USR1"))
    loop.on_signal(signal.SIGUSR2, lambda: calls.append("USR2"))
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGUSR2)
    loop.turn(5)
    loop.turn(0)
    assert sorted(calls) == ["USR1", "USR2"]


def test_a_signal_that_was_blocked_is_unblocked(loop, handlers):
    calls = []
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
    loop.on_signal(signal.SIGUSR1, lambda: calls.append("USR1"))
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    os.kill(os.getpid(), signal.SIGUSR1)
    loop.turn(5)
    assert calls == ["USR1"]


def test_after_close_signals_write_to_no_descriptor(clock, handlers):
    loop = EventLoop(clock)
    loop.on_signal(signal.SIGUSR1, lambda: None)
    loop.close()
    assert signal.set_wakeup_fd(-1) == -1


def test_a_loop_with_no_deadline_waits_for_a_day(loop):
    waits = []

    def select(timeout):
        waits.append(timeout)
        loop.stop()
        return []

    loop._selector.select = select
    loop.run()
    assert waits == [LONGEST_WAIT]


def test_an_idle_loop_does_not_wake(loop, pair):
    loop.watch(pair[0], lambda: pytest.fail("called"))
    begun = time.monotonic()
    cpu = time.process_time()
    loop.turn(0.3)
    assert time.monotonic() - begun >= 0.29
    assert time.process_time() - cpu < 0.2


def test_closing_a_forked_copy_takes_nothing_from_the_parent(loop, pair):
    calls = []
    loop.watch(pair[0], lambda: calls.append("readable"))
    child = os.fork()
    if child == 0:
        loop.close()
        os._exit(0)
    os.waitpid(child, 0)
    pair[1].send(b"x")
    loop.turn(5)
    assert calls == ["readable"]


def test_arrived_data_can_be_seen_without_a_turn(loop, pair):
    here, there = pair
    watch = loop.watch(here, pytest.fail)
    assert not watch.readable()
    there.send(b"x")
    assert watch.readable()
    here.recv(1)
    assert not watch.readable()
    there.close()
    assert watch.readable()
