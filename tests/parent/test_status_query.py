import pytest
from support.clock import FakeClock

from lonc.monitoring.status import HostStatus
from lonc.parent.status_query import ANSWER_WITHIN, StatusQuery
from lonc.runtime.event_loop import EventLoop


class Supervisor:
    """Answers at once, when `answer` is called, or never."""

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


def test_the_answers_are_in_the_order_of_the_supervisors(loop):
    results = []
    supervisors = [Supervisor("l1"), Supervisor("l2", at_once=True), Supervisor("l3")]
    StatusQuery(loop, supervisors, results.append)
    supervisors[2].answer()
    assert results == []
    supervisors[0].answer()
    (answers,) = results
    assert [(each.host, each.state) for each in answers] == [(f"l{n}", "ready") for n in (1, 2, 3)]


def test_a_child_that_does_not_answer_in_time_is_reported_as_such_and_once(loop, clock):
    results = []
    supervisors = [Supervisor("l1", at_once=True), Supervisor("l2"), Supervisor("l3")]
    StatusQuery(loop, supervisors, results.append)
    clock.advance(ANSWER_WITHIN - 0.01)
    loop.turn(0)
    assert results == []
    clock.advance(0.01)
    loop.turn(0)
    assert [each.state for each in results[0]] == ["ready", "not answering", "not answering"]
    supervisors[1].answer()
    assert len(results) == 1


@pytest.mark.parametrize("hosts", [[], ["l1"]])
def test_if_all_answer_at_once_no_time_passes(loop, hosts):
    results = []
    StatusQuery(loop, [Supervisor(host, at_once=True) for host in hosts], results.append)
    loop.turn(10)
    assert [[each.host for each in answers] for answers in results] == [hosts]
