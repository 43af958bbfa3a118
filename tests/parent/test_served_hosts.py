"""Which hosts have a supervisor and a socket. Only the tests of reaping fork processes."""

import os
import signal
from dataclasses import replace

import pytest
from support.still_loop import StillLoop

from lonc.configuration import Settings
from lonc.errors import CannotStart
from lonc.hosts import Host
from lonc.parent.served_hosts import Change, ServedHosts
from lonc.parent.supervisor import State


def host(id_, address="127.0.0.1", **more):
    return Host(id_, "dom", "library", f"{id_}.example.org", address, line=1, **more)


class FakeChild:
    def __init__(self, drain_timeout=0.0):
        self.drain_timeout = drain_timeout
        self.calls = []

    def ended(self, status):
        self.calls.append(os.waitstatus_to_exitcode(status))

    def terminate(self):
        self.calls.append("TERM")

    def kill(self, why):
        self.calls.append(why)


@pytest.fixture
def served(tmp_path):
    served = ServedHosts(StillLoop(), Settings(socket_directory=tmp_path), [host("l1"), host("l2")])
    yield served
    served.retire()


@pytest.fixture
def bound(served):
    served.bind(served.hosts, served.settings)
    return served


class TestBinding:
    def test_each_host_has_a_socket_and_a_supervisor(self, bound, tmp_path):
        assert sorted(os.listdir(tmp_path)) == ["l1", "l2"]
        assert [each.host for each in bound] == bound.hosts
        assert str(bound) == "2 hosts"

    def test_a_bound_host_keeps_its_socket_and_supervisor(self, bound):
        before = list(bound)
        bound.bind([*bound.hosts, host("l3")], bound.settings)
        assert list(bound)[:2] == before

    def test_a_missing_socket_is_bound_again(self, bound, tmp_path):
        (tmp_path / "l1").unlink()
        bound.bind(bound.hosts, bound.settings)
        assert (tmp_path / "l1").is_socket()

    def test_a_host_whose_socket_cannot_be_bound_leaves_all_as_it_was(self, bound, tmp_path):
        (tmp_path / "l4").mkdir()
        before = list(bound)
        with pytest.raises(CannotStart, match="in the way"):
            bound.bind([*bound.hosts, host("l3"), host("l4")], bound.settings)
        assert list(bound) == before
        assert sorted(os.listdir(tmp_path)) == ["l1", "l2", "l4"]


class TestReplacing:
    def test_new_changed_and_removed_hosts_are_listed(self, bound, tmp_path):
        gone = bound.supervisors["l1"]
        hosts = [host("l3"), host("l2", "127.0.0.2")]
        bound.bind(hosts, bound.settings)
        settings = replace(bound.settings, drain_timeout=1.0)
        assert bound.replace(hosts, settings) == Change(new=["l3", "l2"], gone=["l1"])
        assert gone.state is State.RETIRED
        assert sorted(os.listdir(tmp_path)) == ["l2", "l3"]
        assert [each.host for each in bound] == hosts
        assert {each.settings for each in bound} == {settings}
        assert (bound.hosts, bound.settings) == (hosts, settings)

    def test_the_same_hosts_are_no_change(self, bound):
        assert bound.replace([host("l1"), host("l2")], bound.settings) == Change(new=[], gone=[])

    def test_a_host_is_found_by_each_of_its_ids(self, served):
        served.hosts = [host("l1", ids=("l1", "l9"), name="l1.example.org"), host("l2")]
        assert served.names == {"l1": "l1.example.org", "l9": "l1.example.org", "l2": "l2"}


def give_up(*_):
    raise AssertionError("it waits for a child that runs")


class TestChildren:
    def test_all_ended_children_are_reaped_also_unknown_ones(self, bound):
        assert bound.childless
        bound.reap()  # with no child at all
        pids = []
        for status in (3, 4, 5):
            pids.append(os.fork())
            if pids[-1] == 0:
                os._exit(status)
        children = {pid: FakeChild() for pid in pids[:2]}
        bound._children.update(children)
        for pid in pids:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert not bound.childless
        bound.reap()
        assert [each.calls for each in children.values()] == [[3], [4]]
        assert bound.childless
        for pid in pids:
            with pytest.raises(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def test_a_running_child_is_not_waited_for(self, bound):
        readable, writable = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(writable)
            os.read(readable, 1)
            os._exit(0)
        child = bound._children[pid] = FakeChild()
        signal.signal(signal.SIGALRM, give_up)
        signal.alarm(20)
        try:
            bound.reap()
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        assert child.calls == []
        os.close(writable)
        os.close(readable)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        bound.reap()
        assert child.calls == [0]

    def test_retiring_terminates_all_and_returns_the_longest_drain_timeout(self, bound):
        assert bound.retire() == 0.0
        bound._children.update({1: FakeChild(3.0), 2: FakeChild(7.0)})
        assert bound.retire() == 7.0
        assert [each.calls for each in bound._children.values()] == [["TERM"], ["TERM"]]
        assert {each.state for each in bound} == {State.RETIRED}
        bound.kill("a reason")
        assert [each.calls[-1] for each in bound._children.values()] == ["a reason"] * 2
        bound._children.clear()
