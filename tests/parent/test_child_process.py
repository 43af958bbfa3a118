"""A forked process that sends the words of the test; the loop has a fake clock."""

import os
import signal
import socket
import time

import pytest
from support.machine import eventually, exists, in_child

from lonc.configuration import Settings
from lonc.hosts import Host
from lonc.monitoring.status import HostStatus
from lonc.parent import child_process
from lonc.parent.child_process import (
    ANSWER_WITHIN,
    EXIT_WITHIN,
    KILL_AFTER,
    LEAVING_WITHIN,
    MAX_UNANSWERED,
    PING_EVERY,
    PINGS_ALIGNED,
    READY_WITHIN,
    ChildProcess,
)
from lonc.runtime.channel import Channel
from lonc.runtime.event_loop import FORGOTTEN, EventLoop

HOST = Host("l1", "dom", "library", "l1.example.org", "127.0.0.1", line=1)


class ScriptedChild:
    """Takes the place of `Child`."""

    def __init__(self, host, settings, listening, to_parent, predecessor, disabled):
        self._to_parent = to_parent

    def run(self):
        """Send the words in the environment; end after "bye", else with the parent."""
        words = os.environ["SCRIPT"]
        if words == "hang":
            time.sleep(60)
        if words == "crash":
            raise ValueError("a\nb")
        self._to_parent.sendall(words.encode())
        if words.endswith("bye\n"):
            return
        if words.endswith("close\n"):
            self._to_parent.close()
            time.sleep(60)
        while self._to_parent.recv(1000):
            pass


class Bench:
    def __init__(self):
        self.now = 1000.0
        self.loop = EventLoop(clock=lambda: self.now)
        self.said, self.ended = [], []
        self.listening = socket.socket(socket.AF_UNIX)
        self.child = None

    def fork(self, monkeypatch, script="", drain_timeout=30.0):
        child_process.Child = ScriptedChild  # `bench` restores it
        monkeypatch.setenv("SCRIPT", script)
        self.child = ChildProcess(
            self.loop,
            HOST,
            Settings(drain_timeout=drain_timeout),
            self.listening,
            None,
            False,
            on_word=lambda _, word: self.said.append(word),
            on_ended=self.ended.append,
        )
        return self.child

    def turn_until(self, condition):
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            self.loop.turn(0.05)

    def pass_time(self, seconds):
        self.now += seconds
        for _ in range(2):
            self.loop.turn(0)

    def is_killed(self):
        """Whether SIGKILL has ended it; it is reaped then."""
        pid, status = os.waitpid(self.child.pid, os.WNOHANG)
        if pid == 0:
            return False
        self.child.ended(status)
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

    def reap(self):
        _, status = os.waitpid(self.child.pid, 0)
        self.child.ended(status)

    def close(self):
        if self.child is not None and not self.ended:
            self.child.kill("the test is over")
            self.reap()
        self.loop.close()
        self.listening.close()


@pytest.fixture
def bench(restore_afterwards):
    restore_afterwards(child_process)
    bench = Bench()
    yield bench
    bench.close()


class TestWords:
    def test_other_words_are_passed_to_the_callback(self, bench, monkeypatch):
        bench.fork(monkeypatch, "ready\npong\nnonsense\n")
        bench.turn_until(lambda: len(bench.said) == 2)
        assert bench.said == [b"ready\n", b"nonsense\n"]

    def test_words_of_a_child_that_is_being_killed_are_dropped(self, bench, monkeypatch):
        child = bench.fork(monkeypatch, "ready\nbye\n")
        child.kill("a reason")
        child._heard(b"ready\n")
        bench.reap()
        assert bench.said == []

    def test_the_crash_and_the_exit_status_are_in_the_sentence(self, bench, monkeypatch):
        child = bench.fork(monkeypatch, "crash")
        bench.reap()
        assert not child.left
        start = f"child {child.pid} of l1 exited with status 1: ValueError: a\\nb ("
        assert child.how_it_ended.startswith(start)
        assert child.how_it_ended.endswith(")")

    def test_the_last_words_of_a_child_that_leaves_are_read(self, bench, monkeypatch):
        child = bench.fork(monkeypatch, "status nonsense\nbye\n")
        bench.reap()
        assert child.left
        assert child.how_it_ended == f"child {child.pid} of l1 exited"
        assert bench.ended == [child]

    def test_a_reaped_child_is_not_signalled(self, bench, monkeypatch):
        child = bench.fork(monkeypatch, "bye\n")
        bench.reap()
        child.kill("late")
        child.terminate()
        bench.pass_time(100)
        assert child.how_it_ended == f"child {child.pid} of l1 exited"


class TestDeadlines:
    """Each deadline, and that the child lives a moment before it."""

    def expect_kill_after(self, bench, seconds, why):
        bench.pass_time(seconds - 0.1)
        assert bench.child._killed_for is None
        bench.pass_time(0.2)
        bench.turn_until(bench.is_killed)
        assert bench.child.how_it_ended == f"child {bench.child.pid} of l1 was killed: {why}"

    def test_it_must_become_ready(self, bench, monkeypatch):
        bench.fork(monkeypatch)
        self.expect_kill_after(bench, READY_WITHIN, "it was not ready in time")

    def test_a_child_that_is_ready_in_time_is_not_killed(self, bench, monkeypatch):
        bench.fork(monkeypatch, "ready\n")
        bench.turn_until(lambda: bench.said)
        bench.pass_time(READY_WITHIN + 1)
        assert bench.child._killed_for is None

    def test_it_must_leave(self, bench, monkeypatch):
        child = bench.fork(monkeypatch, "ready\n")
        bench.turn_until(lambda: bench.said)
        ours, theirs = socket.socketpair()
        child.leave(theirs)
        assert theirs.fileno() == -1
        ours.close()
        self.expect_kill_after(bench, LEAVING_WITHIN, "it did not leave in time")

    def test_it_must_drain_in_its_own_drain_timeout(self, bench, monkeypatch):
        child = bench.fork(monkeypatch, "ready\n", drain_timeout=2.0)
        bench.turn_until(lambda: bench.said)
        os.kill(child.pid, signal.SIGSTOP)  # so that the TERM does not end it
        child.terminate()
        self.expect_kill_after(bench, 2.0 + KILL_AFTER, "it did not drain in time")

    def test_it_must_answer_pings(self, bench, monkeypatch):
        child = bench.fork(monkeypatch, "ready\n")
        bench.turn_until(lambda: bench.said)
        # The first ping is due within PING_EVERY, at a moment that depends on the pid.
        for _ in range(MAX_UNANSWERED - 1):
            bench.pass_time(PING_EVERY)
        assert bench.child._killed_for is None
        for _ in range(2):
            bench.pass_time(PING_EVERY)
        bench.turn_until(bench.is_killed)
        seconds = MAX_UNANSWERED * PING_EVERY
        assert child.how_it_ended.endswith(f"was killed: it has not answered for {seconds:.0f} s")

    def test_any_line_is_an_answer(self, bench, monkeypatch):
        child = bench.fork(monkeypatch, "ready\n")
        bench.turn_until(lambda: bench.said)
        for _ in range(MAX_UNANSWERED):
            bench.pass_time(PING_EVERY)
        child._heard(b"pong\n")
        for _ in range(MAX_UNANSWERED):
            bench.pass_time(PING_EVERY)
        assert bench.child._killed_for is None

    def test_a_child_that_closes_its_channel_must_end(self, bench, monkeypatch):
        bench.fork(monkeypatch, "ready\nclose\n")
        bench.turn_until(lambda: bench.child._channel._watch.events == FORGOTTEN)
        bench.pass_time(EXIT_WITHIN)
        bench.turn_until(bench.is_killed)
        assert bench.child.how_it_ended.endswith("it has closed its channel, and did not end")


class TestStatus:
    def test_many_requests_are_sent_as_one_and_all_get_its_report(
        self, bench, monkeypatch, restore_afterwards
    ):
        status = HostStatus("l1", "ready")
        child = bench.fork(monkeypatch)
        statuses = []
        sent = []
        restore_afterwards(Channel)
        Channel.send = lambda _, line: sent.append(line)
        for _ in range(2):
            child.ask_status(statuses.append)
        assert sent == [b"status\n"]
        child._heard(b"status " + status.to_line())
        assert statuses == [status, status]
        child.ask_status(statuses.append)
        assert sent == [b"status\n"] * 2

    def test_a_late_report_calls_nothing_back(self, bench, monkeypatch):
        child = bench.fork(monkeypatch)
        early, late = [], []
        child.ask_status(early.append)
        bench.pass_time(ANSWER_WITHIN)
        child.ask_status(late.append)
        child._heard(b"status " + HostStatus("l1", "ready").to_line())
        assert (len(early), len(late)) == (0, 1)

    def test_a_child_that_ends_answers_the_request(self, bench, monkeypatch):
        child = bench.fork(monkeypatch, "bye\n")
        statuses = []
        child.ask_status(statuses.append)
        bench.reap()
        assert statuses == [HostStatus("l1", "no child")]

    def test_a_child_whose_report_is_invalid_is_killed(self, bench, monkeypatch):
        bench.fork(monkeypatch, "status nonsense\n").ask_status(lambda _: None)
        bench.turn_until(bench.is_killed)
        assert bench.child.how_it_ended.endswith("was killed: its status makes no sense")

    def test_a_child_whose_report_is_of_another_host_is_killed(self, bench, monkeypatch):
        line = b"status " + HostStatus("l2", "ready").to_line()
        bench.fork(monkeypatch, line.decode()).ask_status(lambda _: None)
        bench.turn_until(bench.is_killed)
        assert bench.child.how_it_ended.endswith("was killed: its status is of another host")

    def test_a_child_that_reports_unasked_is_killed(self, bench, monkeypatch):
        line = b"status " + HostStatus("l1", "ready").to_line()
        bench.fork(monkeypatch, line.decode())
        bench.turn_until(bench.is_killed)
        assert bench.child.how_it_ended.endswith("it sent a status that was not requested")


def test_a_fork_that_fails_leaves_no_descriptor(bench, monkeypatch, restore_afterwards):
    def fail(_):
        raise OSError(11, "Resource temporarily unavailable")

    restore_afterwards(child_process)
    child_process.fork = fail
    with pytest.raises(OSError, match="Resource"):
        bench.fork(monkeypatch)


def test_a_child_that_hangs_is_killed_when_its_parent_ends(bench, monkeypatch):
    def fork():
        child = str(bench.fork(monkeypatch, "hang").pid)
        assert exists(int(child))
        return child

    pid = int(in_child(fork))
    eventually(lambda: not exists(pid))


def test_a_reaped_child_is_not_pinged(bench, monkeypatch, restore_afterwards):
    bench.fork(monkeypatch, "bye\n")
    bench.reap()
    deadlines = []
    restore_afterwards(EventLoop)
    EventLoop.at = lambda _, when, __: deadlines.append(when)
    bench.pass_time(PING_EVERY)
    assert deadlines == []


def test_the_first_ping_comes_at_a_moment_that_depends_on_the_pid(
    bench, monkeypatch, restore_afterwards
):
    moments = []
    at = EventLoop.at
    restore_afterwards(EventLoop)
    EventLoop.at = lambda loop, when, call: moments.append(when) or at(loop, when, call)
    child = bench.fork(monkeypatch, "ready\n")
    assert moments[-1] == bench.now + child.pid % PINGS_ALIGNED


def test_pings_of_many_children_share_few_wakeups(bench, monkeypatch, restore_afterwards):
    child = bench.fork(monkeypatch, "ready\n")
    moments = set()
    restore_afterwards(EventLoop)
    EventLoop.at = lambda _, when, __: moments.add(round(when, 6))
    for number in range(1000):
        child._ping_in(number / 1000 * PING_EVERY)
    assert len(moments) <= child_process.PINGS_ALIGNED + 1
