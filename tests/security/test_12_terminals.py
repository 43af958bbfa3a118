"""Nothing that others wrote controls a terminal, ends a line, or shows it in another order."""

import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from support.false_daemon import false_daemon
from support.machine import LONC, Terminal

import lonc
from lonc.hosts import read_hosts
from lonc.monitoring.status import FilesStatus, HostStatus, Phase, Report

ROOT = Path(lonc.__file__).parent
SINCE = "2026-11-24T02:00:00+00:00"

# Clears the screen; ends the line; C1's CSI; overrides the direction; isolates; hides.
ATTACKS = ["\x1b[2J", "\nlonc: all is well", "\r", "\x9b2J", "\u202egnp", "\u2066x", "\u200b", "\ufeff"]


def has_attack(text):
    """Whether a character of it, but newlines and spaces, cannot be printed."""
    return not "".join(text.split("\n")).isprintable()


@pytest.mark.parametrize("attack", ATTACKS)
class TestReports:
    """A report with such a text is refused as a whole, and a figure of a child is left out."""

    HOST = HostStatus("l1", "ready", SINCE, last_error=(SINCE, "why"), changes=[[SINCE, "ready", None]])
    REPORT = Report(Phase.RUNNING, 1, "1", SINCE, [HOST], {"l3": 1}, files=FilesStatus(["f"], 1))

    def test_no_text_of_a_host_has_control_characters(self, attack):
        for fields in (
            {"host": attack},
            {"state": attack},
            {"mode": attack},
            {"lond_version": attack},
            {"version": attack},
            {"connections": {attack: 1}},
            {"reasons": {attack: 1}},
            {"last_error": (SINCE, attack)},
            {"last_error": (attack, "why")},
            {"changes": [(SINCE, attack, None)]},
            {"changes": [(SINCE, "ready", attack)]},
        ):
            report = replace(self.REPORT, hosts=[replace(self.HOST, **fields)])
            with pytest.raises(ValueError, match="out of bounds"):
                Report.from_line(report.to_line())

    def test_no_text_of_the_report_has_control_characters(self, attack):
        for fields in (
            {"version": attack},
            {"strays": {attack: 1}},
            {"files": FilesStatus([attack], 1)},
            {"files": FilesStatus(changed=[attack])},
        ):
            with pytest.raises(ValueError, match="out of bounds"):
                Report.from_line(replace(self.REPORT, **fields).to_line())

    def test_no_time_has_control_characters(self, attack):
        """Python takes any character between date and time."""
        for separator in attack:
            at = SINCE.replace("T", separator)
            if at.isprintable():
                continue
            for report in (
                replace(self.REPORT, since=at),
                replace(self.REPORT, certified_until=at),
                replace(self.REPORT, hosts=[replace(self.HOST, state_since=at)]),
                replace(self.REPORT, hosts=[replace(self.HOST, since=at)]),
            ):
                with pytest.raises(ValueError, match="out of bounds"):
                    Report.from_line(report.to_line())

    def test_what_a_child_reports_is_left_out(self, attack):
        line = replace(self.HOST, last_error=(SINCE, attack), version=attack).to_line()
        assert HostStatus.from_child(line) == replace(self.HOST, last_error=None)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_the_daemon_answers_is_escaped(machine, attack):
    answer = json.dumps({"exit": 0, "text": f"fine{attack}"}).encode() + b"\n"
    with false_daemon(machine, answer):
        done = machine.command("reload")
        assert done.returncode == 0
        assert not has_attack(done.stdout.decode())
    settings = json.dumps({"londPort": f"1{attack}"}).encode() + b"\n"
    with false_daemon(machine, settings):
        done = machine.command("config", "--running")
        assert b"londPort" in done.stdout
        assert not has_attack(done.stdout.decode())
        assert len(done.stdout.splitlines()) == 2
    state = TestReports.HOST.to_line().decode().replace('"ready"', json.dumps(f"ready{attack}"), 1)
    report = replace(TestReports.REPORT, hosts=[]).to_line().decode()
    report = report.replace('"hosts": []', f'"hosts": [{state.strip()}]')
    with false_daemon(machine, report.encode()):
        for command in (["status"], ["status", "l1"], ["status", "--json"], ["check-health"]):
            done = machine.command(*command)
            assert done.returncode != 0
            assert not has_attack((done.stdout + done.stderr).decode())


@pytest.fixture
def served(machine):
    machine.start_lond("l1")
    machine.run()
    return machine


def shown(machine, *arguments):
    """What the terminal gets from `lonc send`."""
    terminal = Terminal([*LONC, "-c", machine.configuration, "send", *arguments])
    text = terminal.until("end\r\n")
    assert terminal.end() == 0
    return text


def test_a_reply_of_lond_does_not_control_the_terminal(served):
    """lond replies to echo:TEXT with TEXT."""
    request = "echo:\x1b[2J\u202e\x9b\rend"
    assert shown(served, "l1", request) == "\\x1b[2J\\u202e\\x9b\\rend\r\n"
    assert shown(served, "--raw", "l1", request).startswith("\x1b[2J\u202e\x9b\rend")


def test_a_reply_is_unchanged_where_standard_output_is_no_terminal(served):
    request = "echo:\x1b[2J\u202e\x9b\rend"
    done = served.command("send", "l1", request)
    assert done.stdout == request.removeprefix("echo:").encode() + b"\n"


def test_names_of_files_are_escaped(machine):
    delayed = machine.settings().delayed_directory
    delayed.mkdir(parents=True)
    (delayed / "bad").mkdir()
    for attack in ATTACKS:
        (delayed / "bad" / f"x{attack}").write_text("x")
        (delayed / f"1.0.1.x{attack}.l1").write_text("x")
    for command in (["delayed", "list"], ["delayed", "list", "--bad"], ["delayed", "requeue", "--all"]):
        done = machine.command(*command)
        said = (done.stdout + done.stderr).decode()
        assert not has_attack(said)
        if "list" in command and "--bad" in command:
            assert len(said.splitlines()) == 1 + len(ATTACKS)


def test_the_table_is_escaped(machine):
    for attack in ATTACKS:
        line = (
            f"l1:dom:library:x{attack.strip()}y:127.0.0.1\nl{attack.strip()}2:dom:library:x:127.0.0.1\n"
        )
        machine.table.write_bytes(line.encode())
        for command in (["check"], ["ping", "l2"], ["status"], ["config"]):
            done = machine.command(*command)
            assert not has_attack((done.stdout + done.stderr).decode()), command


def test_what_lond_says_is_escaped_in_the_log_and_in_the_status(machine):
    machine.table.write_text("l1:dom:library:no\u202e\x1b[2J.example\n")
    machine.configure(loncRetryDelay=0.1)
    machine.run()
    assert machine.ask(b"ping") == b"con_lost"
    status = machine.status()
    assert "cannot resolve" in status["last_error"][1]
    assert not has_attack(json.dumps(status, ensure_ascii=False))
    assert not has_attack(machine.log())


def test_commands_print_through_one_function():
    for file in sorted((ROOT / "commands").glob("*.py")):
        calls = [
            node
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
        assert not calls or file.name == "output.py", file


def test_one_module_escapes():
    for file in sorted(ROOT.rglob("*.py")):
        text = file.read_text()
        if file.name != "escape.py":
            assert not re.search(r"ascii\(\w+\)\[1:-1\]|\\x7f-\\x9f", text), file


@pytest.mark.parametrize("by_dns", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_name_of_a_host_has_control_characters(tmp_path, attack, by_dns):
    """The title of a child has the name."""
    table = tmp_path / "hosts.tab"
    for line in (f"l1:dom:library:x{attack}y", f"l{attack}1:dom:library:x"):
        table.write_bytes(line.encode())
        for host in read_hosts([table], tmp_path, by_dns).hosts:
            assert not has_attack(host.name)
            assert "\n" not in host.name
