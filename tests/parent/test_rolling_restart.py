import pytest

from lonc.parent.rolling_restart import ABREAST, FEW, RollingRestart
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

    def bring_up(self, on_up):
        self._begun.append(on_up)


def test_no_more_than_so_many_at_a_time_and_the_next_when_few_are_left(loop):
    begun, told = [], []
    rolling_restart = RollingRestart(loop, told.append, lambda: told.append("done"))
    rolling_restart.begin([Supervisor(begun) for _ in range(3 * ABREAST)])
    done = 0
    while done < 3 * ABREAST:
        under_way = len(begun) - done
        assert under_way <= ABREAST
        assert under_way > FEW or len(begun) == 3 * ABREAST
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


def test_with_nobody_to_bring_up_it_is_done_at_once(loop):
    told = []
    RollingRestart(loop, told.append, lambda: told.append("done")).begin([])
    assert told == ["done"]


def test_after_it_is_cancelled_nobody_is_begun_with_and_nothing_is_told(loop):
    begun, told = [], []
    rolling_restart = RollingRestart(loop, told.append, lambda: told.append("done"))
    rolling_restart.begin([Supervisor(begun) for _ in range(ABREAST + 1)])
    rolling_restart.cancel()
    for on_up in list(begun):
        on_up("a reason")
    assert len(begun) == ABREAST
    assert told == []


def test_who_hangs_does_not_hold_up_the_others(loop):
    begun, told = [], []
    rolling_restart = RollingRestart(loop, told.append, lambda: told.append("done"))
    rolling_restart.begin([Supervisor(begun) for _ in range(3 * ABREAST)])
    hanging, done = FEW + 1, FEW + 1
    while done < len(begun):
        begun[done](None)
        done += 1
    assert done == ABREAST  # they may still come
    while len(begun) == ABREAST:
        loop.turn(5)
    while done < len(begun):
        begun[done](None)
        done += 1
    assert done == 3 * ABREAST
    assert told == []
    for on_up in begun[:hanging]:
        on_up("it hangs")
    assert told == ["it hangs"] * hanging + ["done"]
    for _ in range(3):
        loop.turn(1)
    assert told[hanging:] == ["done"]
