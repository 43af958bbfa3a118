import logging

import pytest

from lonc.child.history import REMEMBERED, Chronicle
from lonc.child.pool import HostState
from lonc.runtime.event_loop import EventLoop


@pytest.fixture
def chronicle(caplog):
    caplog.set_level(logging.DEBUG, "lonc")
    loop = EventLoop()
    yield Chronicle(loop, HostState.READY)
    loop.close()


def test_a_change_is_a_line_and_is_remembered(chronicle, caplog):
    assert chronicle.heard(HostState.CONNECTING, None)
    assert chronicle.heard(HostState.DEAD, "refused")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "connecting"),
        ("WARNING", "DEAD: refused"),
    ]
    assert [change[1:] for change in chronicle.changes] == [
        ("ready", None),
        ("connecting", None),
        ("DEAD", "refused"),
    ]
    assert chronicle.last_error[1] == "refused"


def test_what_does_not_change_the_state_is_told_once_a_minute(chronicle, caplog):
    for _ in range(3):
        assert not chronicle.heard(HostState.READY, "an attempt failed")
    assert not chronicle.heard(HostState.READY, None)
    assert [record.getMessage() for record in caplog.records] == ["an attempt failed"]
    assert chronicle.last_error[1] == "an attempt failed"


def test_good_news_is_no_error(chronicle):
    chronicle.heard(HostState.CONNECTING, None)
    chronicle.heard(HostState.READY, "connected")
    chronicle.heard(HostState.DRAINING, "asked to leave")
    chronicle.heard(HostState.DRAINING, "lost a connection")
    assert chronicle.last_error is None


def test_only_the_last_changes_are_remembered(chronicle):
    for _ in range(100):
        chronicle.heard(HostState.CONNECTING, None)
        chronicle.heard(HostState.READY, None)
    assert len(chronicle.changes) == REMEMBERED
