"""Commands to a control socket that the test serves in place of a daemon."""

import os
import socket
import threading

import pytest

from lonc.configuration import Settings
from lonc.errors import LoncError, NoPermission, NotRunning
from lonc.lifecycle.control_client import ask, ask_phase
from lonc.monitoring.status import Phase, Report


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "logs").mkdir()
    return Settings(daemons=tmp_path)


class Daemon:
    """Answers one command with `pieces`, and then closes, or waits until the client closes."""

    def __init__(self, settings, *pieces, closes=False):
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(settings.control_file))
        self._listening.listen()
        self._pieces, self._closes = pieces, closes
        self.heard = b""
        self._thread = threading.Thread(target=self._answer)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join()
        self._listening.close()

    def _answer(self):
        connection, _ = self._listening.accept()
        with connection:
            self.heard = connection.recv(1000)
            for piece in self._pieces:
                connection.sendall(piece)
            while not self._closes and connection.recv(1000):
                pass


def test_the_answer_is_one_line_however_it_arrives(settings):
    with Daemon(settings, b"a" * 100_000, b"b", b"c\n") as daemon:
        assert ask(settings, "status") == b"a" * 100_000 + b"bc\n"
    assert daemon.heard == b"status\n"


def test_without_a_socket_there_is_no_daemon(settings):
    with pytest.raises(NotRunning):
        ask(settings, "status")
    assert ask_phase(settings) is None


def test_a_socket_without_a_listener_is_no_daemon(settings):
    with Daemon(settings, b"x\n"):
        ask(settings, "status")
    with pytest.raises(NotRunning):
        ask(settings, "status")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_without_permission(settings):
    settings.control_file.parent.chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(NoPermission, match="cannot use"):
            ask(settings, "status")
    finally:
        os.seteuid(0)


def test_a_daemon_that_ends_meanwhile(settings):
    with Daemon(settings, b"half", closes=True), pytest.raises(LoncError, match="ended meanwhile"):
        ask(settings, "status")


def test_a_daemon_that_does_not_answer(settings):
    with Daemon(settings), pytest.raises(LoncError, match=r"no answer at .* within 0 s"):
        ask(settings, "status", timeout=0.1)


def test_a_path_that_cannot_be_used(settings):
    os.symlink(settings.control_file.name, settings.control_file)
    with pytest.raises(LoncError, match="cannot ask at"):
        ask(settings, "status")


def test_the_phase_is_that_of_the_report(settings):
    report = Report(Phase.RELOADING, 1, "2", "2026-01-01T00:00:00+00:00", [], {})
    with Daemon(settings, report.to_line()):
        assert ask_phase(settings) is Phase.RELOADING


def test_an_invalid_report_has_no_phase(settings):
    with Daemon(settings, b"nonsense\n"):
        assert ask_phase(settings) is None
