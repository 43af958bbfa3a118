"""Orders at the parent's sockets, and their answers. Hosts are fakes."""

import json
import os
from datetime import datetime, timezone

import pytest
from support.asking import Order
from support.still_loop import StillLoop

from lonc.configuration import Settings
from lonc.monitoring.status import FilesStatus, HostStatus, Phase, Report
from lonc.parent.orders import Orders
from lonc.parent.reload import PhaseNotifier


class FakeSupervisor:
    def __init__(self, name):
        self.name = name
        self.calls = []

    def ask_status(self, on_status):
        on_status(HostStatus(self.name, "ready"))

    def retry(self):
        self.calls.append("retry")

    def set_disabled(self, disabled):
        self.calls.append("disable" if disabled else "enable")


class FakeServedHosts:
    def __init__(self, settings):
        self.settings = settings
        self.certified_until = None
        self.revocations_until = None
        self.supervisors = {name: FakeSupervisor(name) for name in ("a.example.org", "l2")}
        self.names = {"l1": "a.example.org", "l9": "a.example.org", "l2": "l2"}

    def __iter__(self):
        return iter(self.supervisors.values())

    def __str__(self):
        return "2 hosts"


class FakeSpoolScan:
    def __init__(self):
        self.strays = {"gone": 3}
        self.bad = 4


class FakeWatch:
    def status(self):
        return FilesStatus(["a fault"], 1, False, ["a change"])


class Bench:
    def __init__(self, tmp_path):
        (tmp_path / "logs").mkdir()
        self.loop = StillLoop()
        self.served = FakeServedHosts(Settings(daemons=tmp_path))
        self.phase = PhaseNotifier()
        self.phase.enter(Phase.RUNNING)
        self.reloads = []
        self.orders = Orders(
            self.loop,
            self.served,
            self.phase,
            FakeSpoolScan(),
            FakeWatch(),
            {"reload": self.reloads.append},
        )

    def carry_out(self, line):
        order = Order(line + b"\n")
        self.orders.carry_out(order)
        return order

    def outcome(self, line):
        answer = json.loads(self.carry_out(line).reply)
        return answer["exit"], answer["text"]

    def calls(self, name="a.example.org"):
        return self.served.supervisors[name].calls


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


class TestOrders:
    def test_status_is_the_report(self, bench):
        report = Report.from_line(bench.carry_out(b"status").reply + b"\n")
        assert (report.phase, report.pid) == (Phase.RUNNING, os.getpid())
        assert [each.host for each in report.hosts] == ["a.example.org", "l2"]
        assert (report.strays, report.bad) == ({"gone": 3}, 4)
        assert report.files == FilesStatus(["a fault"], 1, False, ["a change"])

    def test_settings_are_the_texts_of_those_in_force(self, bench):
        texts = json.loads(bench.carry_out(b"settings").reply)
        assert (texts["loncSocketMode"], texts["loncAllowInsecure"]) == ("0660", "1")
        assert texts["lonDaemons"] == str(bench.served.settings.daemons)

    def test_the_report_has_the_expiry_of_the_certificate(self, bench):
        assert Report.from_line(bench.carry_out(b"status").reply + b"\n").certified_until is None
        bench.served.certified_until = datetime(2026, 11, 24, tzinfo=timezone.utc)
        report = Report.from_line(bench.carry_out(b"status").reply + b"\n")
        assert report.certified_until == "2026-11-24T00:00:00+00:00"

    def test_retry_is_for_all_hosts_or_one(self, bench):
        assert bench.outcome(b"retry") == (0, "trying 2 hosts")
        assert bench.outcome(b"retry l2") == (0, "l2 is ready")
        assert (bench.calls(), bench.calls("l2")) == (["retry"], ["retry", "retry"])

    @pytest.mark.parametrize("word", ["disable", "enable"])
    @pytest.mark.parametrize("host", ["l1", "l9", "a.example.org"])
    def test_a_host_is_named_by_any_id_or_its_dns_name(self, bench, word, host):
        assert bench.outcome(f"{word} {host}".encode()) == (0, "a.example.org is ready")
        assert bench.calls() == [word]

    def test_a_host_that_is_not_in_the_table(self, bench):
        assert bench.outcome(b"disable a.example.or")[0] == 2
        text = "a.example.or is not in the table; did you mean a.example.org?"
        assert bench.outcome(b"disable a.example.or") == (2, text)

    @pytest.mark.parametrize("line", [b"disable", b"disable ", b"reload l1", b"", b"nonsense", b"\xff"])
    def test_an_unknown_order_is_a_usage_error(self, bench, line):
        status, text = bench.outcome(line)
        assert (status, text) == (2, f"there is no order {line.decode(errors='backslashreplace')!r}")

    def test_other_orders_are_passed_on(self, bench):
        order = bench.carry_out(b"reload")
        assert bench.reloads == [order]
        assert order.replies == []


class TestStatusFile:
    def test_the_file_is_replaced_whole_and_each_host_is_logged(self, bench, caplog):
        caplog.set_level("INFO")
        file = bench.served.settings.status_file
        file.write_text("before")
        with file.open() as before:
            bench.orders.write_status()
            assert before.read() == "before"
        assert "a.example.org" in file.read_text()
        assert os.listdir(file.parent) == [file.name]
        assert [message.split(":")[0] for message in caplog.messages] == [
            "status of a.example.org",
            "status of l2",
        ]

    def test_requests_at_the_same_time_write_one_report(self, bench):
        asked = []
        for supervisor in bench.served:
            supervisor.ask_status = asked.append
        for _ in range(3):
            bench.orders.write_status()
        assert len(asked) == 2
        bench.loop.advance(0)
        for number, on_status in enumerate(asked):
            on_status(HostStatus(f"l{number}", "ready"))
        bench.orders.write_status()
        assert len(asked) == 4

    def test_a_file_that_cannot_be_written_is_logged(self, bench, caplog):
        file = bench.served.settings.status_file
        file.mkdir()
        bench.orders.write_status()
        assert caplog.messages == [f"cannot write {file}: Is a directory"]
