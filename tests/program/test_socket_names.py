"""Sockets named by DNS names, as newer clients expect; lonSockCreate."""

import os
import signal
from pathlib import Path

import pytest
from support.machine import eventually, read_line, title
from support.scripted_lond import BUILD_KEY, ScriptedLond, remembering

from lonc import lonnet
from lonc.hosts import Host, read_hosts
from lonc.wire.cipher import LineCipher, shared_key

SOCKETS = Path("/s")


class TestTheTable:
    def read(self, tmp_path, text):
        file = tmp_path / "hosts.tab"
        file.write_text(text)
        table = read_hosts([file], SOCKETS, by_dns=True)
        return table.hosts, [str(fault).removeprefix(str(file)) for fault in table.faults]

    def test_hosts_of_one_dns_name_are_one_machine_with_several_ids(self, tmp_path):
        hosts, faults = self.read(
            tmp_path,
            "l1:dom:library:one.example.org:127.0.0.1\n"
            "l2:dom:library:two.example.org:127.0.0.2\n"
            "l3:other:library:one.example.org:127.0.0.1\n",
        )
        assert faults == []
        one = Host("l1", "dom", "library", "one.example.org", "127.0.0.1", 1)
        two = Host("l2", "dom", "library", "two.example.org", "127.0.0.2", 2)
        assert [(host.name, host.ids, host.id) for host in hosts] == [
            ("one.example.org", ("l1", "l3"), "l1"),
            ("two.example.org", ("l2",), "l2"),
        ]
        assert (one.name, one.ids) == ("l1", ("l1",))  # without the setting
        assert hosts[1] != two

    @pytest.mark.parametrize(
        ("line", "fault"),
        [
            ("l2:d:r::127.0.0.1", "'' is not a DNS name, which loncSocketName dns needs"),
            ("l2:d:r:../x:127.0.0.1", "'../x' is not a DNS name, which loncSocketName dns needs"),
            ("l2:d:r:.x:127.0.0.1", "'.x' is not a DNS name, which loncSocketName dns needs"),
            ("l2:d:r:delayed:127.0.0.1", "a host cannot be named delayed"),
            (
                "l2:d:r:one.example:127.0.0.2",
                "l2 and l1 have the same DNS name, but different a",
            ),
            (f"l2:d:r:{'x' * 106}:127.0.0.1", "the socket path /s/"),
        ],
    )
    def test_what_cannot_be(self, tmp_path, line, fault):
        _, faults = self.read(tmp_path, f"l1:d:r:one.example:127.0.0.1\n{line}\n")
        assert len(faults) == 1
        assert faults[0].startswith(f":2: {fault}")


@pytest.fixture
def machine(machine):
    machine.configure(loncSocketName="dns", loncDelayedInterval="0.2", loncRetryMaxDelay="0.2")
    machine.table.write_text(
        f"l1:dom:library:one.example.org:{machine.address(1)}\n"
        f"l2:dom:library:two.example.org:{machine.address(2)}\n"
        f"l3:other:library:one.example.org:{machine.address(1)}\n"
    )
    return machine


@pytest.fixture
def up(machine):
    for host in ("l1", "l2"):
        machine.start_lond(host)
    machine.run()
    return machine


ONE, TWO = "one.example.org", "two.example.org"


def test_one_child_for_each_dns_name(up):
    assert up.socket_files() == [ONE, TWO]
    assert set(up.children()) == {ONE, TWO}
    assert up.status(ONE)["host"] == ONE
    eventually(lambda: f" {ONE}: ready: connected" in up.log())


def test_each_id_behind_it_is_spoken_to(up):
    assert up.ask(b"ping", ONE) == b"l1"
    assert up.ask(b"sethost:l3:ping", ONE) == b"l3"
    assert up.ask(b"ping", ONE) == b"l1"  # whatever sethost that connection sent before
    assert up.ask(b"sethost:l2:ping", TWO) == b"l2"
    assert up.ask(b"ping", TWO) == b"l2"
    assert up.ask(b"sethost:l3:put:d:u:passwd:password=x", ONE) == b"ok"
    assert up.ask(b"sethost:l3:encrypt:auth:d:u:x", ONE) == b"authorized"
    assert up.ask(b"encrypt:auth:d:u:x", ONE) == b"authorized"
    assert up.ask(b"sethost:l3:auth:d:u:x", ONE) == b"refused"


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (b"sethost:l2:ping", b"no_such_host"),
        (b"sethost::ping", b"no_such_host"),
        (b"sethost:\xff:ping", b"no_such_host"),
        (b"sethost:l1", b"refused"),
        (b"sethost:l1:sethost:l3:ping", b"refused"),
        (b"sethost:l1:encrypt:sethost:l3:ping", b"refused"),
        (b"sethost:l1:init", b"refused"),
        (b"sethost:l1:exit", b"refused"),
        (b"sethost:l1:encrypt:ekey", b"refused"),
        (b"sethost:l1:lonc:nonsense", b"error: unknown lonc command"),
        (b"sethost:l1:reset_retries", b"ok"),
        (b"sethost:l1:", b"unknown_cmd"),
    ],
)
def test_what_would_change_a_shared_connection_is_refused_behind_an_id_too(up, request_, reply):
    assert up.ask(request_, ONE) == reply
    assert up.ask(b"ping", ONE) == b"l1"


def test_what_goes_over_the_wire(machine):
    seen, alone = [], []
    with (
        ScriptedLond(machine.address(1), machine.port, remembering(seen)),
        ScriptedLond(machine.address(2), machine.port, remembering(alone)),
    ):
        machine.run()
        for request in (b"a", b"sethost:l3:b", b"encrypt:c", b"sethost:l3:encrypt:d"):
            assert machine.ask(request, ONE) == b"ok"
        for request in (b"a", b"sethost:l2:b", b"sethost:l2:encrypt:c"):
            assert machine.ask(request, TWO) == b"ok"

    def enciphered(id_, text):
        key = shared_key(id_, "a1", BUILD_KEY + b"\n")
        return bytes(LineCipher(key).encipher(text)).removesuffix(b"\n")

    assert seen == [
        b"sethost:l1:a",
        b"sethost:l3:b",
        b"sethost:l1:" + enciphered("l1", b"c"),
        b"sethost:l3:" + enciphered("l1", b"d"),
    ]
    assert alone == [b"a", b"b", enciphered("l2", b"c")]


def test_the_later_dialogue_sets_the_first_id(machine):
    machine.configure(loncSocketName="dns", loncKeyMode="insecure")
    machine.start_lond("l1")
    machine.run()
    assert machine.ask(b"ping", ONE) == b"l1"
    assert machine.ask(b"sethost:l3:ping", ONE) == b"l3"
    assert title(machine.children()[ONE]).endswith("(insecure)")


def test_programs_ask_by_id_and_so_do_the_commands(up):
    settings = up.settings()
    with lonnet.Lonc(settings) as lonc:
        assert [lonc.reply("ping", host) for host in ("l1", "l2", "l3")] == [b"l1", b"l2", b"l3"]
        assert lonc.reply("ping", "l4") == b"no_such_host"
        up.table.write_text(up.table.read_text() + f"l4:dom:library:{TWO}:{up.address(2)}\n")
        assert lonc.reply("ping", "l4") == b"no_such_host"  # lonc has not read the table again yet
        assert up.command("update").returncode == 0
        assert lonc.reply("ping", "l2") == b"l2"
    said = up.command("ping").stdout.decode().splitlines()
    assert [line.split()[0] for line in said] == ["l1", "l3", "l2", "l4"]
    assert up.command("send", "l3", "ping").stdout == b"l3\n"
    assert up.command("send", ONE, "ping").stdout == b"l1\n"
    assert up.command("status", TWO).stdout.decode().startswith(f"{TWO}: ready")
    assert up.command("status", "l3").stdout.decode().startswith(f"{ONE}: ready")
    assert up.command("disable", "l2").stdout.decode() == f"{TWO} is disabled\n"
    assert up.command("enable", TWO).stdout.decode().startswith(f"{TWO} is ")


def test_whoever_keeps_a_connection_follows_an_id_to_another_machine(up):
    with lonnet.Lonc(up.settings()) as lonc:
        assert [lonc.reply("ping", host) for host in ("l3", "l2")] == [b"l3", b"l2"]
        table = up.table.read_text()
        row = f"l3:other:library:{ONE}:{up.address(1)}\n"
        up.table.write_text(table.replace(row, row[:5] + "broken\n"))
        assert lonc.reply("ping", "l3") == b"l3"  # a table with faults changes nothing
        up.table.write_text(table.replace(row, f"l3:other:library:{TWO}:{up.address(2)}\n"))
        assert up.command("update").returncode == 0
        assert lonc.reply("ping", "l3") == b"refused"  # by the other lond, which does not know l3
        up.table.write_text(table.replace(row, ""))
        assert lonc.reply("ping", "l3") == b"no_such_host"


def test_delayed_transactions_of_each_id_are_carried_out(machine):
    machine.run()
    settings = machine.settings()
    for host in ("l1", "l3", "l2"):
        assert lonnet.critical(f"put:{host}", host, settings=settings) == b"con_delayed"
    seen, alone = [], []
    with (
        ScriptedLond(machine.address(1), machine.port, remembering(seen)),
        ScriptedLond(machine.address(2), machine.port, remembering(alone)),
    ):
        eventually(lambda: len(seen) == 2 and len(alone) == 1)
        eventually(lambda: not [n for n in os.listdir(settings.delayed_directory) if n != "bad"])
    assert sorted(seen) == [b"sethost:l1:put:l1", b"sethost:l3:put:l3"]
    assert alone == [b"put:l2"]
    sent = [line.split(":")[1:5] for line in settings.perm_log.read_text().splitlines() if ":S:" in line]
    assert sorted(sent) == [["S", host, "put", host] for host in ("l1", "l2", "l3")]


def test_what_is_secret_is_not_told_behind_an_id_either(machine):
    machine.configure(loncSocketName="dns", loncLogLevel="debug")
    machine.start_lond("l1")
    machine.run()
    machine.ask(b"sethost:l3:encrypt:auth:d:u:hush", ONE)
    machine.ask(b"sethost:l3:echo:x", ONE)
    assert "hush" not in machine.log()
    assert "request: sethost:l3:echo:x" in machine.log()


def test_a_socket_that_was_removed_is_made_again_for_whoever_asks(machine):
    create = machine.sockets / "common_parent"
    machine.configure(loncSocketName="dns", loncChildren="eager", lonSockCreate=create)
    machine.start_lond("l1")
    machine.start()
    assert (create.stat().st_mode & 0o777) == 0o660
    (machine.sockets / ONE).unlink()
    with machine.connect("common_parent") as asking:
        asking.sendall(f"{ONE}:l1:more\n".encode())
        assert read_line(asking) == b"done"
        assert machine.ask(b"ping", ONE) == b"l1"
        asking.sendall(b"elsewhere.example.org:l9\n")
        assert read_line(asking) == b"no_such_host"
        asking.sendall(b"one.example.org\n")
        assert read_line(asking) == b"done"
    machine.command("stop")
    assert machine.socket_files() == []


class TestNamesInAnotherCase:
    """A client has asked for the host's socket by its name in another case."""

    SPELLED = "One.Example.ORG"

    @pytest.fixture
    def asked(self, machine):
        machine.configure(
            loncSocketName="dns", loncChildren="eager", lonSockCreate=machine.sockets / "create"
        )
        machine.start_lond("l1")
        machine.start_lond("l2")
        machine.start()
        self.ask_for_it(machine)
        assert machine.ask(b"ping", self.SPELLED) == b"l1"
        return machine

    def ask_for_it(self, machine):
        with machine.connect("create") as asking:
            asking.sendall(f"{self.SPELLED}:l1:2.11.4\n".encode())
            assert read_line(asking) == b"done"

    def test_that_name_goes_when_lonc_stops(self, asked):
        assert asked.command("stop").returncode == 0
        assert asked.socket_files() == []

    def test_that_name_goes_with_the_host(self, asked):
        asked.table.write_text(f"l2:dom:library:{TWO}:{asked.address(2)}\n")
        assert asked.command("update").returncode == 0
        assert sorted(asked.socket_files()) == ["create", TWO]

    def test_a_socket_that_was_removed_is_made_again(self, asked):
        (asked.sockets / ONE).unlink()
        self.ask_for_it(asked)
        assert asked.ask(b"ping", self.SPELLED) == b"l1"

    def test_the_table_may_take_that_name(self, asked):
        asked.table.write_text(asked.table.read_text().replace(ONE, self.SPELLED))
        assert asked.command("update").returncode == 0
        assert sorted(asked.socket_files()) == [self.SPELLED, "create", TWO]
        assert not (asked.sockets / self.SPELLED).is_symlink()
        assert asked.ask(b"ping", self.SPELLED) == b"l1"

    @pytest.mark.parametrize("next_command", ["start", "stop"])
    def test_one_that_a_killed_daemon_has_left_is_removed(self, asked, next_command):
        asked.lonc.kill()
        asked.lonc.wait()
        assert (asked.sockets / self.SPELLED).is_symlink()
        if next_command == "start":
            asked.start()
            assert sorted(asked.socket_files()) == ["create", ONE, TWO]
        else:
            assert asked.command("stop").returncode == 0
            assert asked.socket_files() == []


def test_a_host_whose_socket_would_be_the_one_to_ask_at_is_a_fault(machine):
    machine.configure(loncSocketName="dns", lonSockCreate=machine.sockets / TWO)
    done = machine.command("check")
    assert done.returncode == 6
    assert done.stdout.decode() == f"{machine.table}:2: the socket of {TWO} would be lonSockCreate\n"


def test_where_the_socket_to_ask_at_cannot_be_made_nothing_is_stopped(machine):
    machine.start_lond("l1")
    machine.start()
    machine.configure(loncSocketName="dns", lonSockCreate=machine.directory / "none" / "socket")
    sentence = f"cannot listen at {machine.directory}/none/socket: there is no {machine.directory}/none"
    assert f"it will not start: {sentence}" in machine.command("check").stdout.decode()
    done = machine.command("restart")
    assert (done.returncode, done.stderr.decode()) == (1, f"lonc: {sentence}; nothing is stopped\n")
    assert machine.ask(b"ping", ONE) == b"l1"


def test_a_lonc_that_stops_makes_no_socket_any_more(machine):
    machine.configure(
        lonSockCreate=machine.sockets / "common_parent", loncSocketName="id", loncChildren="eager"
    )
    machine.start_lond("l1")
    machine.run()
    asking = machine.connect("common_parent")
    child = machine.children()["l1"]
    os.kill(child, signal.SIGSTOP)  # so that it does not exit yet
    machine.lonc.terminate()
    eventually(lambda: machine.socket_files() == ["common_parent"])
    asking.sendall(b"l1.example.org:l1\n")
    assert read_line(asking) == b"error: lonc is stopping"
    os.kill(child, signal.SIGCONT)
    machine.lonc.wait(20)
    assert machine.socket_files() == []


def test_whoever_waits_for_a_socket_of_a_host_that_goes_is_told(machine):
    machine.configure(
        lonSockCreate=machine.sockets / "common_parent", loncSocketName="id", loncChildren="eager"
    )
    machine.hosts("l1", "l2")
    machine.run()
    old = machine.children()["l2"]
    os.kill(old, signal.SIGSTOP)  # no handover to its successor is possible
    (machine.sockets / "l2").unlink()
    asking = machine.connect("common_parent", timeout=5.0)
    asking.sendall(b"l2.example.org:l2\n")
    eventually(lambda: "l2" in machine.socket_files())
    machine.hosts("l1")
    assert machine.command("update").returncode == 0
    assert read_line(asking) == b"error: l2 is served no longer"
    os.kill(old, signal.SIGCONT)


def test_how_sockets_are_called_cannot_change_while_it_runs(up):
    up.configure(loncSocketName="id", lonSockCreate="/tmp/x")
    done = up.command("reload")
    assert done.returncode == 1
    assert b"loncSocketName, lonSockCreate cannot change while lonc runs" in done.stderr
