"""The parent's look at a real directory of delayed transactions."""

import os

import pytest

from lonc.parent.spool_scan import ABANDONED_AFTER, SpoolScan
from lonc.runtime.event_loop import EventLoop


@pytest.fixture
def loop():
    loop = EventLoop()
    yield loop
    loop.close()


def test_what_is_wrong_is_told_once_in_a_minute_each_of_several(loop, tmp_path, caplog):
    for name in ("bad", "impossible", "too"):  # a file where the directory should be made
        (tmp_path / name).write_bytes(b"x\n")
    scan = SpoolScan(loop, tmp_path)
    for _ in range(10):
        scan.scan({})
    assert sorted(caplog.messages) == [
        f"cannot move {name} to {tmp_path}/bad: File exists" for name in ("impossible", "too")
    ]


def test_a_file_that_was_begun_is_removed_a_day_after_we_saw_it_whatever_the_wall_clock_says(
    loop, tmp_path, caplog
):
    begun, foreign = tmp_path / ".1.0.1.x.l1", tmp_path / ".nfs0001"
    for path in (begun, foreign):
        path.write_bytes(b"half")
        os.utime(path, (0, 0))  # so it looks to a clock that was set forward, or on another machine
    scan = SpoolScan(loop, tmp_path)
    for seconds in (0, ABANDONED_AFTER - 1):
        loop.now += seconds
        scan.scan({})
        assert begun.exists()
    loop.now += 2
    scan.scan({})
    assert not begun.exists()
    assert foreign.exists()
    assert caplog.messages == [f"removed {begun}: its writer has died"]
