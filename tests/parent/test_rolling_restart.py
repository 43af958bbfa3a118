import pytest
from support.clock import FakeClock

from lonc.parent.rolling_restart import MAX_PARALLEL, REFILL_AT, SLOW_AFTER, RollingRestart
from lonc.runtime.event_loop import EventLoop


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def loop(clock):
    loop = EventLoop(clock)
    yield loop
    loop.close()


class Supervisor:
    """Its restart ends when the test calls what it has put into `begun`."""

    def __init__(self, begun):
        self._begun = begun

    def restart(self, on_restarted):
        self._begun.append(on_restarted)


def test_at_most_max_parallel_are_under_way_and_the_next_batch_starts_when_few_are(loop):
    begun, reported = [], []
    rolling_restart = RollingRestart(loop, reported.append, lambda: reported.append("done"))
    rolling_restart.begin([Supervisor(begun) for _ in range(3 * MAX_PARALLEL)])
    done = 0
    while done < 3 * MAX_PARALLEL:
        under_way = len(begun) - done
        assert under_way <= MAX_PARALLEL
        assert under_way > REFILL_AT or len(begun) == 3 * MAX_PARALLEL
        assert reported == []
        begun[done](None)
        done += 1
    assert reported == ["done"]


def test_each_failure_is_reported_and_the_others_go_on(loop):
    begun, reported = [], []
    RollingRestart(loop, reported.append, lambda: reported.append("done")).begin(
        [Supervisor(begun) for _ in range(3)]
    )
    for why in ("a reason", None, "another"):
        begun.pop(0)(why)
    assert reported == ["a reason", "another", "done"]


def test_without_hosts_it_is_done_at_once(loop):
    reported = []
    RollingRestart(loop, reported.append, lambda: reported.append("done")).begin([])
    assert reported == ["done"]


def test_after_it_is_cancelled_no_restart_begins_and_nothing_is_reported(loop):
    begun, reported = [], []
    rolling_restart = RollingRestart(loop, reported.append, lambda: reported.append("done"))
    rolling_restart.begin([Supervisor(begun) for _ in range(MAX_PARALLEL + 1)])
    rolling_restart.cancel()
    for on_restarted in list(begun):
        on_restarted("a reason")
    assert len(begun) == MAX_PARALLEL
    assert reported == []


def test_hosts_that_hang_do_not_hold_up_the_others(loop, clock):
    begun, reported = [], []
    rolling_restart = RollingRestart(loop, reported.append, lambda: reported.append("done"))
    rolling_restart.begin([Supervisor(begun) for _ in range(3 * MAX_PARALLEL)])
    hanging, done = REFILL_AT + 1, REFILL_AT + 1
    while done < len(begun):
        begun[done](None)
        done += 1
    assert done == MAX_PARALLEL  # they may still come
    clock.advance(SLOW_AFTER)
    loop.turn(0)
    assert len(begun) > MAX_PARALLEL
    while done < len(begun):
        begun[done](None)
        done += 1
    assert done == 3 * MAX_PARALLEL
    assert reported == []
    for on_restarted in begun[:hanging]:
        on_restarted("it hangs")
    assert reported == ["it hangs"] * hanging + ["done"]
    clock.advance(SLOW_AFTER)
    loop.turn(0)
    assert reported[hanging:] == ["done"]


def test_a_batch_that_is_followed_by_another_is_not_slow(loop, clock):
    begun = []
    rolling_restart = RollingRestart(loop, begun.clear, begun.clear)
    rolling_restart.begin([Supervisor(begun) for _ in range(3 * MAX_PARALLEL)])
    clock.advance(SLOW_AFTER / 2)
    for on_restarted in begun[: MAX_PARALLEL - REFILL_AT]:
        on_restarted(None)  # the last of them starts the second batch
    second = 2 * MAX_PARALLEL - REFILL_AT
    assert len(begun) == second
    clock.advance(SLOW_AFTER / 2)
    loop.turn(0)
    begun[MAX_PARALLEL](None)
    assert len(begun) == second
