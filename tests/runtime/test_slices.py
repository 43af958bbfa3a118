"""Long work in slices; the loop has a fake clock."""

import socket

import pytest
from support.clock import FakeClock

from lonc.runtime.event_loop import EventLoop
from lonc.runtime.slices import SLICE, Slices


@pytest.fixture
def loop():
    loop = EventLoop(FakeClock())
    yield loop
    loop.close()


def steps(log, count, cost):
    for number in range(count):
        log.append(number)
        yield cost


def test_short_work_is_done_at_once(loop):
    log = []
    slices = Slices(loop, lambda: log.append("called back"))
    assert slices.begin(steps(log, 3, SLICE / 4))
    assert log == [0, 1, 2]
    assert not slices.under_way
    loop.turn(0)
    assert log == [0, 1, 2]


def test_long_work_is_done_in_slices_between_which_other_callbacks_are_called(loop):
    log = []
    ours, theirs = socket.socketpair()
    loop.watch(ours, lambda: log.append(ours.recv(1)))
    slices = Slices(loop, lambda: log.append("done"))
    assert not slices.begin(steps(log, 5, SLICE / 2))
    assert log == [0, 1]
    theirs.send(b"x")
    loop.turn(0)
    assert log == [0, 1, b"x", 2, 3]
    assert slices.under_way
    loop.turn(0)
    assert log == [0, 1, b"x", 2, 3, 4, "done"]
    assert not slices.under_way
    ours.close()
    theirs.close()


def test_cancelled_work_is_not_continued(loop):
    log = []
    slices = Slices(loop, lambda: log.append("done"))
    slices.begin(steps(log, 5, SLICE))
    slices.cancel()
    loop.turn(0)
    assert log == [0]
    assert slices.begin(steps(log, 1, 1))
