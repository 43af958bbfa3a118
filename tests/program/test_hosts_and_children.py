"""The whole program: commands for single hosts, on-demand and hanging children, delayed transactions."""

import os
import re
import signal
import threading
import time

import pytest
from support import preparations
from support.machine import asked, children_of, eventually, exists, program, read_line, without_prefix
from support.scripted_lond import ScriptedLond, remembering

from lonc import lonnet


@pytest.fixture
def three(machine):
    """l1 and l2 have a lond, l3 has none."""
    machine.hosts("l1", "l2", "l3")
    for host in ("l1", "l2"):
        machine.start_lond(host)
    return machine


def said(machine, *arguments, status=0):
    done = machine.command(*arguments)
    assert done.returncode == status, done
    return without_prefix(done.stderr) if status else done.stdout.decode()


class TestOrders:
    def test_a_disabled_host_is_served_no_more_until_it_is_enabled(self, three):
        three.start()
        client = three.connect()
        client.sendall(b"ping\n")
        assert read_line(client) == b"l1"
        assert said(three, "disable", "l1") == "l1 is disabled\n"
        client.sendall(b"ping\n")
        assert read_line(client) == b"con_lost"
        assert three.status()["connections"] == {}
        assert re.search(r"^l1 +disabled ", said(three, "status"), re.M)
        assert said(three, "reload") == "reloaded, 3 hosts\n"
        assert three.ask(b"ping") == b"con_lost"
        assert three.ask(b"ping", "l2") == b"l2"
        assert said(three, "retry", "l1") == "l1 is disabled\n"
        assert said(three, "enable", "l1").startswith("l1 is ")
        client.sendall(b"ping\n")
        assert read_line(client) == b"l1"

    def test_disabled_is_not_kept_over_a_restart(self, three):
        three.start()
        said(three, "disable", "l1")
        three.start("restart")
        assert three.ask(b"ping") == b"l1"

    def test_a_host_that_there_is_not(self, three):
        three.start()
        for order in ("disable", "enable", "retry"):
            why = said(three, order, "l11", status=2)
            assert why == "l11 is not in the table; did you mean l1?\n"
        assert b"there is no order" in asked(three, b"disable")
        assert said(three, "disable", "l1 l2", status=2).startswith("l1 l2 is not in the table")

    def test_without_a_daemon(self, machine):
        for order in (["update"], ["retry"], ["disable", "l1"], ["enable", "l1"]):
            assert machine.command(*order).returncode == 7

    @pytest.mark.parametrize("how", ["retry", "retry l3", "start", "USR1", "reset_retries"])
    def test_a_dead_host_is_tried_at_once_when_somebody_wants_it(self, three, how):
        three.configure(loncRetryDelay=3600, loncRetryMaxDelay=3600)
        three.start()
        three.ask(b"ping", "l3")
        eventually(lambda: three.status("l3")["state"] == "DEAD")
        three.start_lond("l3")
        if how == "USR1":
            three.lonc.send_signal(signal.SIGUSR1)
        elif how == "reset_retries":
            assert three.ask(b"reset_retries", "l3") == b"ok"
        else:
            said(three, *how.split())
        eventually(lambda: three.status("l3")["state"] == "ready")
        assert three.ask(b"ping", "l3") == b"l3"


class TestUpdate:
    @pytest.mark.parametrize("how", ["update", "USR2"])
    def test_only_what_has_changed_is_touched(self, three, how):
        three.start()
        before = three.children()
        kept = three.connect("l2")
        kept.sendall(b"ping\n")
        assert read_line(kept) == b"l2"
        table = three.table.read_text().replace("l1.example.org", "other.example.org")
        table = re.sub("l3:.*", f"l4:dom:library:l4.example.org:{three.address(4)}", table)
        three.table.write_text(table)
        if how == "update":
            assert said(three, "update") == "updated, 3 hosts; new or changed: l1, l4; gone: l3\n"
        else:
            three.lonc.send_signal(signal.SIGUSR2)
            eventually(lambda: "updated, 3 hosts; new or changed: l1, l4; gone: l3" in three.log())
        eventually(lambda: set(three.children()) == {"l1", "l2", "l4"})  # the child of l3 drains first
        after = three.children()
        assert after["l2"] == before["l2"]
        assert after["l1"] != before["l1"]
        kept.sendall(b"ping\n")
        assert read_line(kept) == b"l2"
        assert three.status("l2")["connections"] == {"Idle": 1}

    def test_two_hundred_updates_of_nothing_cost_nothing(self, three):
        three.start()
        before = three.children()
        files = len(os.listdir(f"/proc/{three.lonc.pid}/fd"))
        for _ in range(200):
            three.lonc.send_signal(signal.SIGUSR2)
            assert three.ask(b"ping") == b"l1"
        assert said(three, "update") == "updated, 3 hosts\n"
        assert three.children() == before
        eventually(lambda: len(os.listdir(f"/proc/{three.lonc.pid}/fd")) == files)

    def test_a_reload_that_is_asked_for_meanwhile_is_a_reload(self, three):
        three.start()
        before = three.children()
        three.lonc.send_signal(signal.SIGHUP)
        three.lonc.send_signal(signal.SIGUSR2)
        eventually(lambda: not set(before.values()) & set(three.children().values()))

    def test_a_socket_that_was_removed_is_served_again(self, three):
        three.start()
        before = three.children()
        (three.sockets / "l1").unlink()
        assert said(three, "update") == "updated, 3 hosts\n"
        assert three.ask(b"ping") == b"l1"
        assert three.children()["l2"] == before["l2"]

    def test_what_did_not_come_about_is_tried_again_by_the_next_one(self, three):
        obstacle = three.directory / "obstacle"
        three.start(program=program(preparations.exit_at_start, "l1", obstacle))
        before = three.children()
        obstacle.touch()
        three.table.write_text(three.table.read_text().replace("l1.example.org", "other.example.org"))
        assert "not all is updated: 1 of 3 hosts" in said(three, "update", status=1)
        assert three.children() == before
        obstacle.unlink()
        assert said(three, "update") == "updated, 3 hosts\n"
        after = three.children()
        assert after["l1"] != before["l1"]
        assert after["l2"] == before["l2"]

    def test_a_faulty_table_changes_nothing(self, three):
        three.start()
        three.table.write_text("l1\n")
        assert said(three, "update", status=6).startswith(f"{three.table}:1: ")
        assert three.ask(b"ping", "l2") == b"l2"


class TestHanging:
    def test_a_child_that_hangs_is_killed_and_replaced(self, three):
        three.start(program=program(preparations.check_children_often))
        child = three.children()["l1"]
        os.kill(child, signal.SIGSTOP)
        eventually(lambda: not exists(child))
        assert three.ask(b"ping") == b"l1"
        assert f"child {child} of l1 was killed: it has not answered for 1 s" in three.log()

    def test_a_parent_that_was_stopped_itself_blames_nobody(self, three):
        three.start(program=program(preparations.check_children_often))
        before = three.children()
        three.lonc.send_signal(signal.SIGSTOP)
        time.sleep(1.2)  # more than the 1 s after which a child hangs
        three.lonc.send_signal(signal.SIGCONT)
        assert three.command("status").returncode == 0
        assert three.children() == before


class TestOnDemand:
    def test_a_child_comes_with_the_first_client_and_leaves_some_time_after_the_last(self, three):
        three.configure(loncChildren="ondemand", loncIdleTimeout=0.5)
        three.start()
        assert three.children() == {}
        assert re.search(r"^l1 +resting ", said(three, "status"), re.M)
        assert three.command("reload").returncode == 0
        three.lonc.send_signal(signal.SIGUSR1)
        assert three.children() == {}  # that has started no child
        client = three.connect()
        client.sendall(b"ping\n")
        assert read_line(client) == b"l1"
        assert set(three.children()) == {"l1"}
        begun = time.monotonic()
        while time.monotonic() - begun < 1.0:
            time.sleep(0.1)
        client.sendall(b"ping\n")
        assert read_line(client) == b"l1"
        client.close()
        eventually(lambda: three.children() == {})
        assert not re.search("WARNING|ERROR", three.log())

    def test_it_leaves_no_sooner_than_what_a_client_that_has_gone_had_in_flight(self, machine):
        machine.configure(loncChildren="ondemand", loncIdleTimeout=0.3)
        gate = threading.Event()
        heard = []

        def script(peer):
            peer.greet()
            heard.append(peer.hear())
            gate.wait(30)
            peer.say(b"ok")
            heard.append(peer.hear())

        with ScriptedLond(machine.address(1), machine.port, script):
            machine.start()
            with machine.connect() as client:
                client.sendall(b"put:x\n")
                eventually(lambda: heard == [b"put:x"])
            begun = time.monotonic()
            while time.monotonic() - begun < 1.0:
                assert set(machine.children()) == {"l1"}
                time.sleep(0.05)
            gate.set()
            eventually(lambda: machine.children() == {})

    def test_it_leaves_also_when_a_client_that_it_was_to_take_over_never_came(self, machine):
        machine.configure(loncChildren="ondemand", loncIdleTimeout=0.3)
        gate = threading.Event()
        heard = []

        def script(peer):
            peer.greet()
            while (line := peer.hear()) is not None:
                heard.append(line)
                gate.wait(30)
                peer.say(b"ok")

        with ScriptedLond(machine.address(1), machine.port, script):
            machine.start()
            client = machine.connect()
            client.sendall(b"put:x\n")
            eventually(lambda: heard)
            assert said(machine, "reload") == "reloaded, 1 host\n"
            begun = time.monotonic()
            while time.monotonic() - begun < 1.0:  # until its first check for idleness is over
                time.sleep(0.05)
            client.close()
            gate.set()
            eventually(lambda: children_of(machine.lonc.pid) == [])

    def test_no_connect_is_lost_on_the_edge(self, three):
        three.configure(loncChildren="ondemand", loncIdleTimeout=0.1)
        three.start()
        forked = set()
        for number in range(30):
            assert three.ask(b"echo:%d" % number) == b"%d" % number
            forked.update(three.children().values())
            deadline = time.monotonic() + 0.1 + (number % 10 - 5) / 250  # about when the child exits
            while time.monotonic() < deadline:
                time.sleep(0.001)
        assert len(forked) > 5

    def test_a_socket_that_could_not_be_made_anew_is_when_it_can(self, three):
        three.configure(loncChildren="ondemand")
        three.start()
        place = three.sockets / "l1"
        place.unlink()
        place.mkdir()
        assert "is in the way" in said(three, "update", status=1)
        place.rmdir()
        assert said(three, "update") == "updated, 3 hosts\n"
        assert three.ask(b"ping") == b"l1"

    def test_one_that_keeps_dying_waits_for_its_delay_though_somebody_wants_it(self, three):
        three.configure(loncChildren="ondemand")
        three.start(program=program(preparations.exit_at_start))
        begun = time.monotonic()
        client = three.connect()
        client.sendall(b"ping\n")
        eventually(lambda: "of l1 exited with status 3; replaced in" in three.log())
        while time.monotonic() - begun < 2.5:
            time.sleep(0.1)
        assert three.log().count("exited with status 3") <= 4
        client.close()

    def test_all_children_can_be_had_again(self, three):
        three.configure(loncChildren="ondemand")
        three.start()
        three.configure(loncChildren="eager")
        assert three.command("reload").returncode == 0
        assert set(three.children()) == {"l1", "l2", "l3"}

    def test_a_delayed_transaction_wakes_a_child(self, three):
        three.configure(loncChildren="ondemand", loncDelayedInterval=0.2, loncIdleTimeout=0.3)
        three.start()
        delayed = three.sockets / "delayed" / "1.0.1.echo.l1"
        delayed.write_bytes(b"echo:x\n")
        eventually(lambda: not delayed.exists())
        eventually(lambda: three.children() == {})
        assert ":S:l1:echo:x:" in three.pid_file.with_name("lonnet.perm.log").read_text()


class TestDelayed:
    def test_what_critical_has_saved_is_carried_out_in_order_when_the_host_is_back(self, three):
        three.configure(loncRetryDelay=0.2, loncRetryMaxDelay=0.5, loncDelayedInterval=0.5)
        three.start()
        outcomes = [
            three.command("send", "--critical", "l3", f"echo:{number}").stdout for number in range(5)
        ]
        assert outcomes == [b"con_delayed\n"] * 5
        eventually(lambda: re.search(r"^l3 +DEAD .* 5$", said(three, "status"), re.M))
        seen = []
        with ScriptedLond(three.address(3), three.port, remembering(seen)):
            eventually(lambda: os.listdir(three.sockets / "delayed") == [])
            assert seen == [b"echo:%d" % number for number in range(5)]
            records = three.pid_file.with_name("lonnet.perm.log").read_text().splitlines()
            assert [record.split(":")[1] for record in records] == ["D"] * 5 + ["S"] * 5
            three.stop()

    def test_live_requests_come_first_and_a_reload_repeats_nothing(self, machine):
        machine.configure(loncMaxConnections=1, loncDelayedInterval=0.2)
        seen = []
        gate = threading.Event()

        def script(peer):
            peer.greet()
            while (line := peer.hear()) is not None:
                seen.append(line)
                if line == b"held":
                    gate.wait(30)
                peer.say(line)

        with ScriptedLond(machine.address(1), machine.port, script):
            machine.start()
            delayed = machine.sockets / "delayed"
            (delayed / "1.0.1.held.l1").write_bytes(b"held\n")
            for number in range(300):
                (delayed / f"2.{number}.1.x.l1").write_bytes(b"delayed %d\n" % number)
            eventually(lambda: seen == [b"held"])
            client = machine.connect()
            client.sendall(b"live\n")
            eventually(lambda: machine.status()["waiting"] == 1)
            gate.set()
            assert read_line(client) == b"live"
            assert seen.index(b"live") == 1
            for _ in range(3):
                assert machine.command("reload").returncode == 0
            eventually(lambda: os.listdir(delayed) == [], 30)
            assert [line for line in seen if line.startswith(b"delayed")] == [
                b"delayed %d" % number for number in range(300)
            ]
            eventually(lambda: len(children_of(machine.lonc.pid)) == 1)
            machine.stop()

    def test_what_was_meant_for_lonc_itself_never_reaches_lond(self, machine):
        machine.sockets.mkdir(mode=0o750)
        own = (b"lonc:status", b"reset_retries", b"close_connection_exit")
        for request in own:
            assert lonnet.critical(request, "l1", settings=machine.settings()) == b"con_delayed"
        seen = []
        with ScriptedLond(machine.address(1), machine.port, remembering(seen)):
            machine.start()
            eventually(lambda: len(list(machine.sockets.glob("delayed/bad/*"))) == len(own))
            machine.stop()
        assert seen == []

    def test_those_of_a_host_that_left_the_table_are_told(self, three):
        three.start()
        (three.sockets / "delayed" / "1.0.1.x.gone").write_bytes(b"x\n")
        (three.sockets / "delayed" / "2.0.1.x.gone").write_bytes(b"x\n")
        sentence = "delayed transactions for gone, which is not in the table: 2\n"
        assert sentence in said(three, "check")
        three.configure(loncDelayedInterval=0.1)
        three.start("restart")
        assert eventually(lambda: said(three, "status").endswith(sentence))
        assert three.log().count("delayed transactions for gone") == 1

    def test_what_a_writer_that_was_killed_has_left_is_removed_in_the_end(self, three):
        three.configure(loncDelayedInterval=0.2)
        three.start(program=program(preparations.abandon_after, 0.5))
        left = three.sockets / "delayed" / ".1.0.1.x.l1"
        left.write_bytes(b"half")
        eventually(lambda: not left.exists())
        eventually(lambda: "its writer has died" in three.log())

    def test_an_impossible_name_is_put_aside(self, three):
        three.configure(loncDelayedInterval=0.2)
        three.start()
        (three.sockets / "delayed" / "nonsense").write_bytes(b"x\n")
        eventually(lambda: (three.sockets / "delayed" / "bad" / "nonsense").exists())
        eventually(lambda: three.log().count("its name is impossible") == 1)
        judged = three.command("check-health")
        assert "bad delayed transactions: 1" in judged.stdout.decode()
        assert judged.returncode != 0
