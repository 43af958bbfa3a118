import pytest

from lonc.parent.rolling_restart import MAX_PARALLEL, REFILL_AT, RollingRestart
from lonc.runtime.event_loop import EventLoop


@pytest.fixture
def loop():
    loop = EventLoop()
    yield loop
    loop.close()


class Supervisor:
    """Comes up, or does not, when the test says so."""

    def __init__(self, begun):
        self._begun = begun

    def restart(self, on_restarted):
        self._begun.append(on_restarted)


def test_no_more_than_so_many_at_a_time_and_the_next_when_few_are_left(loop):
    begun, told = [], []
    rolling_restart = RollingRestart(loop, told.append, lambda: told.append("done"))
    rolling_restart.begin([Supervisor(begun) for _ in range(3 * MAX_PARALLEL)])
    done = 0
    while done < 3 * MAX_PARALLEL:
        under_way = len(begun) - done
        assert under_way <= MAX_PARALLEL
        assert under_way > REFILL_AT or len(begun) == 3 * MAX_PARALLEL
        assert told == []
        begun[done](None)
        done += 1
    assert told == ["done"]


def test_each_failure_is_told_and_the_others_go_on(loop):
    begun, told = [], []
    RollingRestart(loop, told.append, lambda: told.append("done")).begin(
        [Supervisor(begun) for _ in range(3)]
    )
    for why in ("a reason", None, "another"):
        begun.pop(0)(why)
    assert told == ["a reason", "another", "done"]


def test_with_nobody_to_restart_it_is_done_at_once(loop):
    told = []
    RollingRestart(loop, told.append, lambda: told.append("done")).begin([])
    assert told == ["done"]


def test_after_it_is_cancelled_nobody_is_begun_with_and_nothing_is_told(loop):
    begun, told = [], []
    rolling_restart = RollingRestart(loop, told.append, lambda: told.append("done"))
    rolling_restart.begin([Supervisor(begun) for _ in range(MAX_PARALLEL + 1)])
    rolling_restart.cancel()
    for on_restarted in list(begun):
        on_restarted("a reason")
    assert len(begun) == MAX_PARALLEL
    assert told == []


def test_who_hangs_does_not_hold_up_the_others(loop):
    begun, told = [], []
    rolling_restart = RollingRestart(loop, told.append, lambda: told.append("done"))
    rolling_restart.begin([Supervisor(begun) for _ in range(3 * MAX_PARALLEL)])
    hanging, done = REFILL_AT + 1, REFILL_AT + 1
    while done < len(begun):
        begun[done](None)
        done += 1
    assert done == MAX_PARALLEL  # they may still come
    while len(begun) == MAX_PARALLEL:
        loop.turn(5)
    while done < len(begun):
        begun[done](None)
        done += 1
    assert done == 3 * MAX_PARALLEL
    assert told == []
    for on_restarted in begun[:hanging]:
        on_restarted("it hangs")
    assert told == ["it hangs"] * hanging + ["done"]
    for _ in range(3):
        loop.turn(1)
    assert told[hanging:] == ["done"]
