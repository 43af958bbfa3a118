"""A directory of many files, read step by step."""

import os
import random
import time

import pytest

from lonc.spool import scan
from lonc.spool.scan import SURELY_EARLIER, Unchanged, census, count_names, oldest
from lonc.spool.spool import Name


def result(steps):
    """What a generator returns, and how many steps it took."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value, count
        count += 1


def make(directory, *texts):
    directory.mkdir(exist_ok=True)
    for text in texts:
        (directory / text).touch()


@pytest.fixture
def delayed(tmp_path):
    return tmp_path / "delayed"


def test_a_missing_directory_is_empty(delayed):
    assert result(oldest(delayed, ["l1"], 3))[0].names == []
    assert result(census(delayed))[0].by_host == {}
    assert result(count_names(delayed))[0] == 0


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 19, 20, 21, 500])
def test_the_oldest_are_those_that_sorting_all_names_puts_first(delayed, count):
    dice = random.Random(count)
    texts = {
        f"{dice.choice([9, 10, 100, 99])}.{dice.randrange(50)}.{dice.randrange(99)}.put.{host}"
        for _ in range(count)
        for host in ("l1", "l2", "xl1", "l1b")
    }
    make(delayed, *texts, ".1.0.1.put.l1", "nonsense.l1", "bad")
    found, _ = result(oldest(delayed, ["l1", "l1b"], 10))
    mine = sorted(
        name for text in texts if (name := Name.parse(text)) is not None and name.host in ("l1", "l1b")
    )
    assert found.names == mine[:10]
    assert found.more == len(mine[10:])


def test_a_step_reads_a_portion_of_the_names(delayed):
    make(delayed, *(f"{number}.0.1.put.l2" for number in range(scan._STEP * 5)))
    assert result(oldest(delayed, ["l1"], 10))[1] == 5 + 1  # and the last one sorts
    assert result(census(delayed))[1] == 5
    assert result(count_names(delayed)) == (scan._STEP * 5, 5)


def test_the_census_counts_hosts_and_lists_the_other_names(delayed):
    make(delayed, "1.0.1.put.l1", "2.0.1.put.l1", "1.0.1.put.l2", "odd", ".1.0.1.put.l1", ".nfs", "bad")
    found, _ = result(census(delayed))
    assert found.by_host == {"l1": 2, "l2": 1}
    assert found.impossible == ["odd"]
    assert found.unfinished == [".1.0.1.put.l1"]


def test_of_names_that_are_no_transactions_only_some_are_listed(delayed, restore_afterwards):
    restore_afterwards(scan)
    scan.MOST_ODD = 3
    make(delayed, *(f"odd{number}" for number in range(5)), *(f".{each}.0.1.x.l1" for each in range(5)))
    found, _ = result(census(delayed))
    assert (len(found.impossible), len(found.unfinished)) == (3, 3)


class TestUnchanged:
    def test_a_directory_is_unchanged_until_a_name_is_added_or_removed(self, delayed):
        make(delayed, "1.0.1.put.l1")
        then = time.time() - SURELY_EARLIER - 1
        os.utime(delayed, (then, then))
        unchanged = Unchanged(delayed)
        assert not unchanged
        unchanged.scan_begins()
        assert unchanged
        make(delayed, "2.0.1.put.l1")
        assert not unchanged

    @pytest.mark.parametrize("age", [0, 1, -100])
    def test_what_changed_just_before_the_scan_or_in_the_future_may_change_unseen(self, delayed, age):
        make(delayed)
        then = time.time() - age
        os.utime(delayed, (then, then))
        unchanged = Unchanged(delayed)
        unchanged.scan_begins()
        assert not unchanged

    def test_after_a_scan_that_failed_another_is_needed(self, delayed):
        make(delayed)
        os.utime(delayed, (0, 0))
        unchanged = Unchanged(delayed)
        unchanged.scan_begins()
        unchanged.scan_failed()
        assert not unchanged

    def test_a_missing_directory_is_unchanged_until_it_is_made(self, delayed):
        unchanged = Unchanged(delayed)
        unchanged.scan_begins()
        assert unchanged
        make(delayed)
        assert not unchanged
