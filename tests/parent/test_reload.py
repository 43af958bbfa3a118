"""When a reload begins, which children it restarts, and how orders are answered. Hosts are fakes."""

import json
import logging
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from support.still_loop import StillLoop

from lonc.configuration import Settings
from lonc.configuration_file import Configuration
from lonc.errors import CannotStart, Fault, Misconfigured
from lonc.hosts import Host, Table
from lonc.log import logger
from lonc.monitoring.status import Phase
from lonc.parent.reload import PhaseNotifier, Reloader
from lonc.parent.served_hosts import Change
from lonc.parent.source_watch import SourceWatch
from lonc.sources import Sources


def host(id_, address="127.0.0.1"):
    return Host(id_, "dom", "library", f"{id_}.example.org", address, line=1)


class FakeSupervisor:
    outdated = False

    def __init__(self, entry):
        self.host = entry
        self.restarts = []

    def restart(self, on_restarted):
        self.restarts.append(on_restarted)


class FakeServedHosts:
    """ServedHosts without sockets."""

    def __init__(self, settings, hosts):
        self.settings, self.hosts = settings, hosts
        self.certified_until = None
        self.revocations_until = None
        self.requested = []
        self.supervisors = [FakeSupervisor(each) for each in hosts]

    def __iter__(self):
        return iter(self.supervisors)

    def __str__(self):
        return f"{len(self.hosts)} hosts"

    @property
    def has_table_hosts(self):
        return len(self.hosts) > len(self.requested)

    def with_requested(self, hosts, settings):
        return [*hosts, *self.requested]

    def bind(self, hosts, settings):
        self.bound = hosts

    def replace(self, hosts, settings):
        before, self.hosts, self.settings = self.hosts, hosts, settings
        gone = [each.id for each in before if each.id not in {other.id for other in hosts}]
        by_id = {each.host.id: each for each in self.supervisors}
        self.supervisors = [by_id.get(each.id) or FakeSupervisor(each) for each in hosts]
        for supervisor, entry in zip(self.supervisors, hosts, strict=True):
            supervisor.host = entry
        return Change(new=[each.id for each in hosts if each not in before], gone=gone)


class Order:
    """A transaction that keeps its answer."""

    def __init__(self):
        self.answers = []

    def complete(self, reply):
        self.answers.append(json.loads(reply))

    @property
    def answer(self):
        (answer,) = self.answers
        return answer["exit"], answer["text"]


class Bench:
    def __init__(self, tmp_path):
        settings = Settings(socket_directory=tmp_path, daemons=tmp_path)
        self.served = FakeServedHosts(settings, [host("l1"), host("l2")])
        self.files = settings, [host("l1"), host("l2")]
        self.phase = PhaseNotifier()
        self.replaced = 0
        self.reads = 0
        self.watch = SourceWatch(self.load(), self.load)
        self.reads = 0
        self.reloader = Reloader(
            StillLoop(), self.served, self.phase, self.watch, on_replaced=self.on_replaced
        )

    def load(self):
        self.reads += 1
        if isinstance(self.files, Exception):
            raise self.files
        settings, hosts = self.files
        return Sources(Configuration(settings), Table(hosts))

    def on_replaced(self):
        self.replaced += 1

    def order(self, what):
        order = Order()
        {"reload": self.reloader.reload, "update": self.reloader.update}[what](order)
        return order

    def restarting(self):
        """The hosts whose children are being restarted."""
        return [each.host.id for each in self.served if each.restarts]

    def finish(self, *failures):
        for supervisor in list(self.served):
            restarts, supervisor.restarts = supervisor.restarts, []
            for on_restarted in restarts:
                failed = supervisor.host.id in failures
                on_restarted(f"{supervisor.host.id} has failed" if failed else None)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    bench.phase.enter(Phase.RUNNING)
    return bench


class TestOne:
    def test_a_reload_restarts_the_children_of_all_hosts(self, bench):
        order = bench.order("reload")
        assert bench.phase.current is Phase.RELOADING
        assert bench.restarting() == ["l1", "l2"]
        assert order.answers == []
        bench.finish()
        assert order.answer == (0, "reloaded, 2 hosts")
        assert bench.phase.current is Phase.RUNNING
        assert bench.replaced == 1

    def test_an_update_restarts_children_of_changed_and_outdated_hosts(self, bench):
        bench.files = bench.files[0], [host("l1"), host("l2", "127.0.0.2"), host("l3"), host("l4")]
        bench.served.supervisors[0].outdated = True
        order = bench.order("update")
        assert bench.restarting() == ["l1", "l2", "l3", "l4"]
        bench.finish()
        assert order.answer == (0, "updated, 4 hosts; new or changed: l2, l3, l4")
        order = bench.order("update")
        assert bench.restarting() == ["l1"]

    def test_an_update_keeps_the_settings(self, bench):
        settings, hosts = bench.files
        bench.files = replace(settings, drain_timeout=1.0), hosts
        bench.order("update")
        assert bench.served.settings == settings

    def test_at_most_ten_removed_hosts_are_named(self, bench):
        bench.files = bench.files[0], [host("l1"), *(host(f"n{number}") for number in range(12))]
        order = bench.order("reload")
        bench.finish()
        names = ", ".join(f"n{number}" for number in range(10))
        assert order.answer == (
            0,
            f"reloaded, 13 hosts; new or changed: {names}, 2 more; gone: l2",
        )

    def test_failures_are_answered_and_counted(self, bench, caplog):
        order = bench.order("reload")
        bench.finish("l2")
        assert order.answer == (1, "l2 has failed\nnot all is reloaded: 1 of 2 hosts")
        assert caplog.messages == ["reload: not all is reloaded: 1 of 2 hosts"]

    @pytest.mark.parametrize(
        ("error", "status"), [(CannotStart("a\nb"), 1), (Misconfigured([Fault("f", 1, "x")]), 6)]
    )
    def test_a_file_with_a_fault_changes_nothing(self, bench, error, status):
        bench.files = error
        order = bench.order("reload")
        assert order.answer == (status, str(error))
        assert bench.phase.current is Phase.RUNNING
        assert bench.replaced == 0

    def test_an_empty_table_is_rejected_unless_the_old_one_was_empty(self, bench):
        bench.files = bench.files[0], []
        assert bench.order("reload").answer[0] == 6
        bench.served.hosts = []
        bench.served.supervisors = []
        assert bench.order("reload").answer == (0, "reloaded, 0 hosts")

    def test_some_settings_cannot_change(self, bench):
        settings, hosts = bench.files
        bench.files = replace(settings, socket_mode=0o600), hosts
        text = "loncSocketMode cannot change while lonc runs: restart it"
        assert bench.order("reload").answer == (1, text)

    def test_ten_names_are_all_named(self, bench):
        bench.files = bench.files[0], [*bench.files[1], *(host(f"n{number}") for number in range(10))]
        order = bench.order("update")
        bench.finish()
        assert order.answer[1].endswith("n8, n9")

    def test_a_reload_puts_log_level_limits_and_expiry_into_force_and_an_update_does_not(self, bench):
        before = logger.level
        expiry = bench.served.certified_until = datetime.now(timezone.utc)
        settings, hosts = bench.files
        bench.files = replace(settings, log_level="debug", max_clients=10**9), hosts
        try:
            for order, level in (("update", logging.INFO), ("reload", logging.DEBUG)):
                bench.order(order)
                bench.finish()
                assert logger.level == level
                if order == "update":
                    assert bench.served.certified_until is expiry
                    assert bench.served.settings == settings
            assert bench.served.certified_until is None
            assert bench.served.settings.max_clients < 10**9
        finally:
            logger.setLevel(before)


class TestSeveral:
    def test_reloads_requested_during_a_reload_are_one_after_it(self, bench):
        orders = [bench.order("reload") for _ in range(3)]
        assert bench.reads == 1
        bench.finish()
        assert [len(each.answers) for each in orders] == [1, 0, 0]
        bench.finish()
        assert [each.answer for each in orders] == [(0, "reloaded, 2 hosts")] * 3
        assert bench.reads == 2
        assert bench.phase.current is Phase.RUNNING

    def test_a_reload_among_updates_makes_the_next_one_a_reload(self, bench):
        bench.order("update")
        assert bench.phase.current is Phase.RUNNING  # nothing has changed
        bench.order("reload")
        bench.order("reload")
        last = bench.order("update")
        bench.finish()
        assert bench.restarting() == ["l1", "l2"]
        bench.finish()
        assert last.answer == (0, "reloaded, 2 hosts")
        assert bench.order("update").answer == (0, "updated, 2 hosts")

    def test_a_reload_may_follow_one_that_failed(self, bench):
        bench.order("reload")
        bench.files = CannotStart("no")
        second = bench.order("reload")
        third = bench.order("reload")
        bench.finish()
        assert second.answer == third.answer == (1, "no")

    def test_a_reload_requested_during_the_start_waits(self, bench):
        bench.phase.enter(Phase.STARTING)
        order = bench.order("reload")
        assert bench.restarting() == []
        bench.phase.enter(Phase.RUNNING)
        bench.reloader.begin_requested()
        bench.finish()
        assert order.answer == (0, "reloaded, 2 hosts")


class TestStopping:
    def test_a_stop_answers_all_requested_reloads(self, bench):
        under_way, requested = bench.order("reload"), bench.order("reload")
        bench.phase.enter(Phase.STOPPING)
        bench.reloader.stop()
        later = bench.order("update")
        for order in (under_way, requested, later):
            assert order.answer == (1, "lonc is stopping")
        assert bench.reads == 1
        bench.finish()
        assert bench.phase.current is Phase.STOPPING

    def test_a_stop_without_a_reload_changes_nothing(self, bench, caplog):
        bench.phase.enter(Phase.STOPPING)
        bench.reloader.stop()
        assert caplog.messages == []
