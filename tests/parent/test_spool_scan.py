"""The parent scans a real directory of delayed transactions."""

import os

import pytest

from lonc.monitoring.status import describe_stray
from lonc.parent.spool_scan import ABANDONED_AFTER, SpoolScan
from lonc.runtime.event_loop import EventLoop

MOST = 100_000


def scanned(scan, hosts, most=MOST):
    """Scan to the end, and return the hosts that were found."""
    found = []
    scan.scan(hosts, most, found.extend)
    while scan._slices.under_way:
        scan._loop.turn(0)
    return found


@pytest.fixture
def loop():
    loop = EventLoop()
    yield loop
    loop.close()


def test_each_file_that_cannot_be_moved_is_logged_once_a_minute(loop, tmp_path, caplog):
    for name in ("bad", "impossible", "too"):  # a file where the directory should be made
        (tmp_path / name).write_bytes(b"x\n")
    scan = SpoolScan(loop, tmp_path)
    for _ in range(10):
        scanned(scan, {})
    assert sorted(caplog.messages) == [
        f"cannot move {name} to {tmp_path}/bad: File exists" for name in ("impossible", "too")
    ]


def test_an_unfinished_file_is_removed_a_day_after_the_first_scan_whatever_its_mtime(
    loop, tmp_path, caplog
):
    begun, foreign = tmp_path / ".1.0.1.x.l1", tmp_path / ".nfs0001"
    for path in (begun, foreign):
        path.write_bytes(b"half")
        os.utime(path, (0, 0))  # so it looks to a clock that was set forward, or on another machine
    scan = SpoolScan(loop, tmp_path)
    for seconds in (0, ABANDONED_AFTER - 1):
        loop.now += seconds
        scanned(scan, {})
        assert begun.exists()
    loop.now += 2
    scanned(scan, {})
    assert not begun.exists()
    assert foreign.exists()
    assert caplog.messages == [f"removed {begun}: its writer has died"]


def test_hosts_with_delayed_transactions_are_returned_in_the_order_of_the_table(loop, tmp_path):
    for name in ("1.0.1.put.l3", "2.0.1.put.l1b", "3.0.1.put.l1"):
        (tmp_path / name).write_bytes(b"x\n")
    hosts = {"l1": "one", "l1b": "one", "l2": "two", "l3": "three"}
    assert scanned(SpoolScan(loop, tmp_path), hosts) == ["one", "three"]


def test_files_of_hosts_outside_the_table_are_counted_and_logged_once(loop, tmp_path, caplog):
    for name in ("1.0.1.put.gone", "2.0.1.put.gone", "3.0.1.put.l1"):
        (tmp_path / name).write_bytes(b"x\n")
    scan = SpoolScan(loop, tmp_path)
    for _ in range(2):
        scanned(scan, {"l1": "l1"})
        assert scan.strays == {"gone": 2}
    assert caplog.messages == [describe_stray("gone", 2)]


def test_a_file_with_an_impossible_name_is_moved_once_it_no_longer_changes(loop, tmp_path):
    file = tmp_path / "impossible"
    scan = SpoolScan(loop, tmp_path)
    for content in (b"a", b"ab", b"abc"):
        file.write_bytes(content)
        scanned(scan, {})
        assert file.exists()
        assert scan.bad == 0
    scanned(scan, {})
    assert not file.exists()
    assert scan.bad == 1
