from types import SimpleNamespace

import pytest
from support.still_loop import StillLoop

from lonc.child.queue_timeouts import QueueTimeouts
from lonc.log import REPEAT_AFTER


class Bench:
    def __init__(self):
        self.loop = StillLoop()
        self.pool = SimpleNamespace(busy=5, attempting=0, oldest_in_flight=213.4)
        self.reported = []
        self.timeouts = self.make(5)

    def make(self, max_connections):
        return QueueTimeouts(self.loop, self.pool, 60.0, max_connections, self.reported.append)


@pytest.fixture
def bench():
    return Bench()


FULL = "5 of 5 connections wait for a reply, the oldest for 213 s"


def test_the_first_timeout_is_reported_at_once_with_the_state_of_the_pool(bench):
    bench.timeouts.add(3)
    assert bench.reported == [f"no connection was free within 60 s for 3 requests: {FULL}"]


def test_the_timeouts_of_a_minute_are_one_report(bench):
    bench.timeouts.add(1)
    for _ in range(4):
        bench.loop.advance(REPEAT_AFTER / 5)
        bench.timeouts.add(10)
    assert bench.reported == [f"no connection was free within 60 s for 1 request: {FULL}"]
    bench.pool.oldest_in_flight = 273.4
    bench.loop.advance(REPEAT_AFTER / 5)
    assert bench.reported[1:] == [
        "no connection was free within 60 s for 40 requests:"
        " 5 of 5 connections wait for a reply, the oldest for 273 s"
    ]
    bench.timeouts.add(1)
    assert len(bench.reported) == 2


def test_after_a_quiet_minute_nothing_is_reported_and_the_next_is_at_once(bench):
    bench.timeouts.add(1)
    bench.loop.advance(10 * REPEAT_AFTER)
    assert len(bench.reported) == 1
    bench.timeouts.add(2)
    assert len(bench.reported) == 2


@pytest.mark.parametrize(
    ("busy", "attempting", "limit", "state"),
    [
        (1, 0, 5, "1 of 5 connections waits for a reply, the oldest for 213 s"),
        (1, 0, 1, "1 of 1 connection waits for a reply, the oldest for 213 s"),
        (0, 1, 5, "0 of 5 connections wait for a reply; attempts to connect under way: 1"),
    ],
)
def test_the_state_of_the_pool_in_words(bench, busy, attempting, limit, state):
    bench.pool.busy, bench.pool.attempting = busy, attempting
    bench.make(limit).add(1)
    assert bench.reported[0].partition(": ")[2] == state
