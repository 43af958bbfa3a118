import pytest
from support.clock import FakeClock

from lonc.monitoring.status import HostStatus
from lonc.parent.status_query import ANSWER_WITHIN, StatusQuery
from lonc.runtime.event_loop import EventLoop


class Supervisor:
    """Answers at once, when it is told to, or never."""

    def __init__(self, host, at_once=False):
        self.host = host
        self.at_once = at_once

    def ask_status(self, on_status):
        self.answer = lambda: on_status(HostStatus(self.host, "ready"))
        if self.at_once:
            self.answer()

    def unanswered(self):
        return HostStatus(self.host, "not answering")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def loop(clock):
    loop = EventLoop(clock)
    yield loop
    loop.close()


def test_the_answers_come_in_the_order_of_the_keepers(loop):
    told = []
    supervisors = [Supervisor("l1"), Supervisor("l2", at_once=True), Supervisor("l3")]
    StatusQuery(loop, supervisors, told.append)
    supervisors[2].answer()
    assert told == []
    supervisors[0].answer()
    (answers,) = told
    assert [(each.host, each.state) for each in answers] == [(f"l{n}", "ready") for n in (1, 2, 3)]


def test_whoever_does_not_answer_in_time_is_reported_so_and_only_once(loop, clock):
    told = []
    supervisors = [Supervisor("l1", at_once=True), Supervisor("l2"), Supervisor("l3")]
    StatusQuery(loop, supervisors, told.append)
    clock.advance(ANSWER_WITHIN - 0.01)
    loop.turn(0)
    assert told == []
    clock.advance(0.01)
    loop.turn(0)
    assert [each.state for each in told[0]] == ["ready", "not answering", "not answering"]
    supervisors[1].answer()
    assert len(told) == 1


@pytest.mark.parametrize("hosts", [[], ["l1"]])
def test_where_nobody_is_to_be_waited_for_it_is_done_at_once(loop, hosts):
    told = []
    StatusQuery(loop, [Supervisor(host, at_once=True) for host in hosts], told.append)
    loop.turn(10)
    assert [[each.host for each in answers] for answers in told] == [hosts]
