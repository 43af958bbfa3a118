"""What the figures are made from, and the command that prints them."""

import subprocess
import sys
from pathlib import Path

import pytest
from network.scenarios import longest_run
from support.critics import DELAYED, OK, Critical, Critics

from lonc.configuration import Settings

ROOT = Path(__file__).parents[2]


def put(user, number, asked, ended, answer=OK):
    return Critical(b"put:dom:%b:file:%d" % (user, number), asked, ended, answer)


A1, A2, B3 = put(b"a", 1, 0, 1, DELAYED), put(b"a", 2, 2, 3), put(b"b", 3, 2, 3)


@pytest.mark.parametrize(
    ("carried_out", "count"),
    [
        ([A1, A2, B3], 0),
        ([B3, A1, A2], 0),  # users have no order between them
        ([A2, A1, B3], 1),
        ([A1, A2, A1], 1),
        ([A1, A1, A2], 0),
    ],
)
def test_requests_of_a_user_are_out_of_order_if_the_older_is_carried_out_last(carried_out, count):
    critics = Critics(Settings("a1"), rate=1)
    critics.done = [A1, A2, B3]
    assert critics.out_of_order([each.request for each in carried_out]) == count


def test_requests_of_a_user_that_were_under_way_together_have_no_order():
    first, second = put(b"a", 1, 0, 5), put(b"a", 2, 2, 3)
    critics = Critics(Settings("a1"), rate=1)
    critics.done = [second, first]
    assert critics.out_of_order([second.request, first.request]) == 0


def test_a_promised_request_that_is_not_carried_out_is_lost():
    failed = put(b"c", 4, 0, 1, b"con_failed")
    critics = Critics(Settings("a1"), rate=1)
    critics.done = [A1, A2, failed]
    assert critics.lost_from([A2.request]) == {A1.request}


def test_a_run_ends_where_nothing_follows_for_a_while():
    assert longest_run([]) == 0.0
    assert longest_run([1.0, 1.4, 1.8, 3.0, 3.4]) == pytest.approx(0.8)


def test_the_command_prints_a_table():
    command = [sys.executable, "-m", "tests.network", "--only", "no such row"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.stderr:
        assert "may not be made here" in done.stderr
    else:
        assert done.stdout.splitlines()[2:] == ["| | goal | figures |", "|---|---|---|"]
