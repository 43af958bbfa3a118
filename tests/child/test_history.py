import logging

import pytest
from support.still_loop import StillLoop

from lonc.child.history import MAX_CHANGES, History
from lonc.child.reachability import HostState
from lonc.runtime.event_loop import EventLoop


@pytest.fixture
def history(caplog):
    caplog.set_level(logging.DEBUG, "lonc")
    loop = EventLoop()
    yield History(loop, HostState.READY)
    loop.close()


def unreachable(caplog):
    """The loop and the history of a host that has just become DEAD; its log holds that line."""
    caplog.set_level(logging.INFO, "lonc")
    loop = StillLoop()
    history = History(loop, HostState.CONNECTING)
    history.record_state(HostState.DEAD, "refused")
    return loop, history


def logged(caplog):
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return lines


def test_a_change_is_logged_and_recorded(history, caplog):
    assert history.record_state(HostState.CONNECTING, None)
    assert history.record_state(HostState.DEAD, "refused")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "connecting"),
        ("CRITICAL", "DEAD: refused"),
    ]
    assert [change[1:] for change in history.changes] == [
        ("ready", None),
        ("connecting", None),
        ("DEAD", "refused"),
    ]
    assert history.last_error[1] == "refused"


def test_a_cause_without_a_change_is_logged_once_a_minute(history, caplog):
    for _ in range(3):
        assert not history.record_state(HostState.READY, "an attempt failed")
    assert not history.record_state(HostState.READY, None)
    assert [record.getMessage() for record in caplog.records] == ["an attempt failed"]
    assert history.last_error[1] == "an attempt failed"


def test_good_news_is_no_error(history):
    history.record_state(HostState.CONNECTING, None)
    history.record_state(HostState.READY, "connected")
    history.record_state(HostState.DRAINING, "asked to leave")
    history.record_state(HostState.DRAINING, "lost a connection")
    assert history.last_error is None


def test_only_the_last_changes_are_kept(history):
    for _ in range(100):
        history.record_state(HostState.CONNECTING, None)
        history.record_state(HostState.READY, None)
    assert len(history.changes) == MAX_CHANGES


def test_the_version_differs_after_each_change_and_error(history):
    versions = [history.version]
    for state, why in ((HostState.CONNECTING, None), (HostState.CONNECTING, "refused")):
        history.record_state(state, why)
        versions.append(history.version)
    history.record_error("cannot accept")
    versions.append(history.version)
    assert len(set(versions)) == 4
    history.record_state(HostState.CONNECTING, None)
    assert history.version == versions[-1]


def test_the_cause_of_a_change_is_not_logged_again_as_an_error(history, caplog):
    history.record_state(HostState.DEAD, "refused")
    history.record_error("refused")
    assert [record.getMessage() for record in caplog.records] == ["DEAD: refused"]


class TestAHostThatStaysDead:
    def test_is_one_critical_line_and_one_a_minute_with_the_number_of_attempts(self, caplog):
        loop, history = unreachable(caplog)
        assert logged(caplog) == [("CRITICAL", "DEAD: refused")]
        for number in range(90):
            history.record_state(HostState.DEAD, f"refused {number}")
            loop.advance(2)
        assert logged(caplog) == [
            ("INFO", "still DEAD, tried 30 times in 60 s: refused 29"),
            ("INFO", "still DEAD, tried 30 times in 60 s: refused 59"),
            ("INFO", "still DEAD, tried 30 times in 60 s: refused 89"),
        ]
        assert history.last_error[1] == "refused 89"

    def test_says_nothing_while_nobody_tries(self, caplog):
        loop, history = unreachable(caplog)
        loop.advance(600)
        assert logged(caplog) == [("CRITICAL", "DEAD: refused")]
        history.record_state(HostState.DEAD, "refused again")
        loop.advance(59)
        assert logged(caplog) == []
        loop.advance(1)
        assert logged(caplog) == [("INFO", "still DEAD, tried once in 60 s: refused again")]
        loop.advance(600)
        assert logged(caplog) == []

    def test_is_not_critical_again_after_its_retries_were_restored(self, caplog):
        loop, history = unreachable(caplog)
        for _ in range(3):
            assert history.record_state(HostState.CONNECTING, None)
            history.record_state(HostState.CONNECTING, "refused")
            assert history.record_state(HostState.DEAD, "refused")
        loop.advance(60)
        assert logged(caplog) == [
            ("CRITICAL", "DEAD: refused"),
            ("INFO", "still DEAD, tried 6 times in 60 s: refused"),
        ]
        assert [state for _, state, _ in history.changes][-2:] == ["connecting", "DEAD"]

    @pytest.mark.parametrize("state", [HostState.READY, HostState.DISABLED])
    def test_is_critical_when_it_is_dead_anew(self, caplog, state):
        loop, history = unreachable(caplog)
        history.record_state(HostState.DEAD, "refused")
        history.record_state(state, None)
        loop.advance(60)
        assert logged(caplog) == [("CRITICAL", "DEAD: refused"), ("INFO", state.value)]
        history.record_state(HostState.CONNECTING, None)
        history.record_state(HostState.DEAD, "refused")
        assert logged(caplog) == [("INFO", "connecting"), ("CRITICAL", "DEAD: refused")]

    def test_an_error_of_an_attempt_that_goes_on_is_logged_only_of_a_host_that_is_not_dead(self, caplog):
        _, history = unreachable(caplog)
        history.record_attempt_error("no nameserver")
        assert logged(caplog) == [("CRITICAL", "DEAD: refused")]
        history.record_error("cannot accept")
        history.record_state(HostState.READY, "connected")
        history.record_attempt_error("no nameserver")
        assert [level for level, _ in logged(caplog)] == ["WARNING", "INFO", "WARNING"]
        assert history.last_error[1] == "no nameserver"
