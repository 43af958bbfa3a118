import logging

import pytest

from lonc.child.history import MAX_CHANGES, History
from lonc.child.reachability import HostState
from lonc.runtime.event_loop import EventLoop


@pytest.fixture
def history(caplog):
    caplog.set_level(logging.DEBUG, "lonc")
    loop = EventLoop()
    yield History(loop, HostState.READY)
    loop.close()


def test_a_change_is_logged_and_recorded(history, caplog):
    assert history.record_state(HostState.CONNECTING, None)
    assert history.record_state(HostState.DEAD, "refused")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "connecting"),
        ("WARNING", "DEAD: refused"),
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
