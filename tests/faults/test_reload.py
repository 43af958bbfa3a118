"""SIGHUP and `lonc reload` of the whole program: no client is disturbed, and nothing is left behind."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from support import preparations
from support.load import Load
from support.machine import (
    LONC,
    asked,
    children_of,
    eventually,
    exists,
    program,
    read_line,
    read_to_the_end,
    title,
    without_prefix,
)
from support.scripted_lond import ScriptedLond

KEPT, ANEW = 50, 50  # clients that keep their connection, and that make a new one for each request


@pytest.fixture
def three(machine):
    """l1 and l2 have a lond, l3 has none."""
    machine.hosts("l1", "l2", "l3")
    for host in ("l1", "l2"):
        machine.start_lond(host)
    machine.start()
    return machine


def reload(machine, status=0):
    done = machine.command("reload")
    assert done.returncode == status, done
    assert (done.stdout if status else done.stderr) == b""
    return without_prefix(done.stderr) if status else done.stdout.decode()


def holdings(pid):
    """Numbers of descriptors and children of the parent, while no command is connected."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(children_of(pid))


def memory(pid):
    """Private memory of a process, in bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(int(each) for each in re.findall(r"^Private_\w+: +(\d+) kB", text, re.M))


def wait_until_nobody_leaves(machine, hosts=3):
    eventually(lambda: len(children_of(machine.lonc.pid)) == hosts, 70)


def _in_flight(machine):
    """Read from /proc: the sockets may accept no more clients."""
    (report,) = [json.loads(asked(machine, b"status"))]
    return sum((host["connections"] or {}).get("ReceivingReply", 0) for host in report["hosts"])


class TestOutcome:
    def test_every_child_is_replaced_and_counts_anew(self, three):
        for host in ("l1", "l2"):
            three.ask(b"ping", host)
        before = three.children()
        assert reload(three) == "reloaded, 3 hosts\n"
        after = three.children()
        assert set(after) == set(before)
        assert not set(after.values()) & set(before.values())
        assert three.status()["done"] == 0
        assert three.log().count("parent: reloaded, 3 hosts\n") == 1
        wait_until_nobody_leaves(three)
        assert "WARNING" not in "".join(line for line in three.log().splitlines() if "parent" in line)

    def test_hup_does_the_same(self, three):
        before = three.children()
        three.lonc.send_signal(signal.SIGHUP)
        eventually(lambda: "parent: reloaded, 3 hosts" in three.log())
        assert not set(three.children().values()) & set(before.values())

    def test_hosts_are_added_removed_and_changed(self, three):
        kept = three.connect("l2")
        kept.sendall(b"ping\n")
        assert read_line(kept) == b"l2"
        rows = three.table.read_text().splitlines()
        # l1 gets an address without a lond, l2 is removed, l4 is new with the lond of l2.
        three.table.write_text(
            "\n".join([rows[0].replace(three.address(1), three.address(9)), rows[2]])
            + f"\nl4:dom:library:l4.example.org:{three.address(2)}\n"
        )
        assert reload(three) == "reloaded, 3 hosts; new or changed: l1, l4; gone: l2\n"
        assert three.socket_files() == ["l1", "l3", "l4"]
        assert set(three.children()) >= {"l1", "l3", "l4"}
        assert kept.recv(1) == b""
        assert three.ask(b"ping", "l4") == b"l2"
        assert three.ask(b"ping", "l1") == b"con_lost"
        assert title(three.lonc.pid) == "lonc: parent, 3 hosts"
        wait_until_nobody_leaves(three)
        three.hosts("l1", "l2", "l3")
        assert reload(three) == "reloaded, 3 hosts; new or changed: l1, l2; gone: l4\n"
        assert three.ask(b"ping", "l1") == b"l1"
        assert three.ask(b"ping", "l2") == b"l2"

    def test_a_removed_hosts_clients_are_drained(self, machine):
        released = threading.Event()

        def script(peer):
            peer.greet()
            while (line := peer.hear()) is not None:
                released.wait(60)
                peer.say(line)

        with ScriptedLond(machine.address(1), machine.port, script):
            machine.hosts("l1", "l2")
            machine.start()
            client = machine.connect()
            client.sendall(b"slow\nnext\nhalf")
            eventually(lambda: machine.status()["connections"].get("ReceivingReply") == 1)
            machine.hosts("l2")
            assert reload(machine) == "reloaded, 1 host; new or changed: l2; gone: l1\n"
            assert machine.socket_files() == ["l2"]
            released.set()
            assert read_to_the_end(client) == b"slow\nnext\n"
            wait_until_nobody_leaves(machine, hosts=1)

    def test_a_table_that_is_empty_all_at_once_is_not_believed(self, machine):
        """The table is probably being written just now, or the disk is full."""
        machine.start()
        machine.table.write_text("")
        why = f"{machine.table}: no hosts: a table without any is taken by `lonc start --empty` only\n"
        assert reload(machine, status=6) == why
        refused = machine.command("restart")
        assert (refused.returncode, refused.stderr.decode()) == (6, f"lonc: {why}")
        assert machine.status()["host"] == "l1"
        machine.command("stop")
        for command in ("start", "run", "restart"):
            refused = machine.command(command)
            assert (refused.returncode, refused.stderr.decode()) == (6, f"lonc: {why}")
        machine.start("start --empty")
        assert reload(machine) == "reloaded, 0 hosts\n"
        machine.start("restart")  # of a daemon that serves no host

    def test_a_long_list_of_hosts_is_cut(self, machine):
        machine.start()
        machine.hosts(*[f"h{number}" for number in range(15)])
        some = ", ".join(f"h{number}" for number in range(10))
        assert reload(machine) == f"reloaded, 15 hosts; new or changed: {some}, 5 more; gone: l1\n"

    def test_a_socket_that_somebody_removed_is_made_anew(self, three):
        (three.sockets / "l1").unlink()
        (three.sockets / "l2").unlink()
        (three.sockets / "l2").mkdir()
        before = three.children()
        why = f"{three.sockets}/l2 is in the way, and no socket: remove it"
        assert reload(three, status=1) == why + "\n"
        assert three.children() == before
        (three.sockets / "l2").rmdir()
        assert reload(three) == "reloaded, 3 hosts\n"
        for host in ("l1", "l2"):
            assert three.ask(b"ping", host) == host.encode()
        wait_until_nobody_leaves(three)

    def test_where_nobody_can_tell_whether_it_runs_it_is_1(self, three):
        three.pid_file.parent.rename(three.pid_file.parent.with_name("moved"))
        daemons = three.pid_file.parent.parent
        why = f"pid {three.lonc.pid} uses {three.sockets}, and is not the lonc of {daemons}"
        assert reload(three, status=1) == f"{why}\n"

    def test_changed_settings_take_effect(self, three):
        client = three.connect()
        client.sendall(b"x" * 2000)
        three.configure(loncMaxRequest=1000, loncLogLevel="debug")
        reload(three)
        assert read_line(client) == b"error: request too long"
        assert three.ask(b"y" * 1001) == b"error: request too long"
        reload(three)
        eventually(lambda: re.search(r"DEBUG .* parent: child \d+ of l1 exited$", three.log(), re.M))

    @pytest.mark.parametrize("how", ["the command", "HUP"])
    def test_faults_change_nothing_and_are_told_with_their_place(self, three, how):
        before = three.children()
        sockets = sorted((each.name, each.stat().st_ino) for each in three.sockets.iterdir())
        three.configure(londPort="x")
        three.table.write_text(three.table.read_text() + "nonsense\nl1:d:r:n:127.0.0.1\n")
        faults = [
            f"{three.configuration}:5: londPort: 'x' is not a whole number",
            f"{three.table}:4: a host is id:domain:role:dnsname:address, but this line has 1 field",
            f"{three.table}:5: l1 is in line 1 already",
        ]
        if how == "HUP":
            three.lonc.send_signal(signal.SIGHUP)
            eventually(lambda: three.log().count(" parent: reload: ") == 3)
        else:
            assert reload(three, status=6).splitlines() == faults
        for fault in faults:
            assert three.log().count(f"ERROR {three.lonc.pid} parent: reload: {fault}\n") == 1
        assert three.children() == before
        assert sorted((each.name, each.stat().st_ino) for each in three.sockets.iterdir()) == sockets
        three.configure()
        three.table.unlink()
        missing = f"{three.table}: No such file or directory (lonTabDir sets the directory)\n"
        assert reload(three, status=6) == missing
        assert three.ask(b"ping") == b"l1"
        three.hosts("l1", "l2", "l3")
        reload(three)

    @pytest.mark.parametrize(
        ("name", "value"), [("lonSockDir", "/tmp/elsewhere"), ("loncSocketMode", "0600")]
    )
    def test_what_cannot_change_is_refused(self, three, name, value):
        before = three.children()
        three.configure(**{name: value})
        assert reload(three, status=1) == (f"{name} cannot change while lonc runs: restart it\n")
        assert three.children() == before

    def test_a_socket_that_cannot_be_bound_leaves_all_as_it_was(self, three):
        before = three.children()
        (three.sockets / "l5").mkdir()
        three.hosts("l1", "l2", "l3", "l4", "l5")
        why = f"{three.sockets}/l5 is in the way, and no socket: remove it"
        assert reload(three, status=1) == why + "\n"
        assert three.socket_files() == ["l1", "l2", "l3", "l5"]
        assert three.children() == before
        (three.sockets / "l5").rmdir()
        assert reload(three) == "reloaded, 5 hosts; new or changed: l4, l5\n"

    def test_an_address_that_is_not_ours_is_refused(self, three):
        three.configure(loncBindAddress="192.0.2.1")
        assert "cannot connect from 192.0.2.1" in reload(three, status=1)
        assert three.ask(b"ping") == b"l1"

    def test_without_a_daemon_it_is_7(self, machine):
        done = machine.command("reload")
        assert (done.returncode, done.stdout, done.stderr) == (7, b"", b"lonc: it is not running\n")

    def test_many_at_once_are_few(self, three):
        command = [*LONC, "-c", three.configuration, "reload"]
        reloads = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(6)]
        for _ in range(100):
            three.lonc.send_signal(signal.SIGHUP)
        for each in reloads:
            assert each.communicate(timeout=30)[0] == b"reloaded, 3 hosts\n"
            assert each.returncode == 0
        assert three.command("reload").returncode == 0
        assert three.log().count("parent: reloaded, 3 hosts") < 60
        wait_until_nobody_leaves(three)
        assert "was killed" not in three.log()

    def test_who_asks_and_leaves_changes_nothing(self, three):
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as asking:
                asking.connect(str(three.pid_file.with_name("lonc.ctl")))
                asking.sendall(b"reload\n")
        assert reload(three) == "reloaded, 3 hosts\n"

    def test_an_order_that_there_is_not(self, three):
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(three.pid_file.with_name("lonc.ctl")))
            asking.sendall(b"nonsense\n")
            answer = rb"""{"exit": 2, "text": "there is no order 'nonsense'"}"""
            assert read_line(asking) == answer

    def test_of_more_who_ask_than_there_is_room_for_the_newest_are_answered(self, three):
        os.kill(three.children()["l1"], signal.SIGSTOP)  # an answer takes a second then
        asking = [socket.socket(socket.AF_UNIX) for _ in range(80)]
        for each in asking:
            each.connect(str(three.pid_file.with_name("lonc.ctl")))
            each.sendall(b"status\n")
        eventually(lambda: three.log().count("lonc.ctl: 64 clients are connected") == 1)
        answers = [read_to_the_end(each) for each in asking[:16]]
        answers += [read_line(each) for each in asking[16:]]
        assert answers[:16] == [b""] * 16
        assert all(answer.startswith(b'{"phase": "running"') for answer in answers[16:])
        for each in asking:
            each.close()
        os.kill(three.children()["l1"], signal.SIGCONT)


class TestNobodyNotices:
    @pytest.mark.parametrize("reloads", [6])
    def test_reloads_under_load(self, three, reloads, slow):
        """One client after the other has a request in flight that lasts longer than all the reloads."""
        answered = threading.Event()

        def script(peer):
            peer.greet()
            while (line := peer.hear()) is not None:
                answered.wait(120)
                peer.say(line)

        paths = [three.sockets / host for host in ("l1", "l2")]
        with ScriptedLond(three.address(3), three.port, script):
            reload(three)  # now l3 has a lond, and the parent has run all its code once
            wait_until_nobody_leaves(three)
            before, size = holdings(three.lonc.pid), memory(three.lonc.pid)
            flying, reloading = [], []
            begun = time.monotonic()

            def go_on():
                """One reload at a time, each of the first ones after a long request."""
                if reloading and reloading[-1].poll() is None:
                    return
                if len(reloading) < reloads:
                    if len(flying) < 5:
                        flying.append(three.connect("l3", timeout=120))
                        flying[-1].sendall(b"%d\nnext\n" % len(flying))
                    command = [*LONC, "-c", three.configuration, "reload"]
                    reloading.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))

            def over():
                ended = len(reloading) == reloads and reloading[-1].poll() is not None
                return ended and load.done > 1000

            load = Load(paths, clients=KEPT + ANEW, anew=KEPT, requests=1, longest=200, until=over)
            load.run(meanwhile=go_on)
            assert [each.returncode for each in reloading] == [0] * reloads
            assert (load.refused, load.lost) == ([], [])
            while time.monotonic() - begun < slow:
                time.sleep(0.1)
            answered.set()
            for number, client in enumerate(flying, start=1):
                client.shutdown(socket.SHUT_WR)
                assert read_to_the_end(client) == b"%d\nnext\n" % number
            wait_until_nobody_leaves(three)
            eventually(lambda: holdings(three.lonc.pid) == before)
            assert memory(three.lonc.pid) - size < 1_000_000
        assert three.log().count("reloaded, 3 hosts\n") == reloads + 1

    def test_reloads_upon_reloads_and_children_that_ask_to_be_replaced(self, three):
        """Each reload begins while another is under way, with hosts in every state."""
        paths = [three.sockets / host for host in ("l1", "l2")]
        command = [*LONC, "-c", three.configuration, "reload"]
        reloading = []
        begun = time.monotonic()

        def go_on():
            if len(reloading) < 12 and sum(each.poll() is None for each in reloading) < 3:
                reloading.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
                three.lonc.send_signal(signal.SIGHUP)
                assert three.ask(b"close_connection_exit") == b"ok"

        def over():
            return len(reloading) == 12 and all(each.poll() is not None for each in reloading)

        load = Load(paths, clients=40, anew=20, requests=1, longest=200, until=over)
        load.run(meanwhile=go_on, seconds=60)
        assert [each.returncode for each in reloading] == [0] * 12
        assert (load.refused, load.lost) == ([], []), time.monotonic() - begun
        assert not re.search(r"parent: child .* (was|ended)| ERROR ", three.log())
        assert three.crashes() == []
        wait_until_nobody_leaves(three)

    def test_who_is_at_rest_far_ahead_or_takes_nothing_goes_along(self, three):
        idle, half, hog = three.connect(), three.connect(), three.connect()
        half.sendall(b"echo:ha")
        hog.sendall(b"echo:" + b"x" * 3_000_000 + b"\necho:next\n")
        eventually(lambda: three.status()["done"] == 1)
        first = three.children()["l1"]
        for _ in range(3):
            reload(three)
        eventually(lambda: not exists(first))  # even with a client that does not read
        half.sendall(b"lf\n")
        assert read_line(half) == b"half"
        idle.sendall(b"ping\n")
        assert read_line(idle) == b"l1"
        hog.shutdown(socket.SHUT_WR)
        assert read_to_the_end(hog) == b"x" * 3_000_000 + b"\nnext\n"

    def test_at_the_limit_of_descriptors_nobody_is_lost(self, machine):
        """The next child accepts every client passed on to it, and lets new ones wait."""
        machine.start_lond("l1")
        machine.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)))
        clients = [machine.connect() for _ in range(180)]  # 91 are accepted
        eventually(lambda: "91 clients are connected, the most" in machine.log())
        for _ in range(3):
            reload(machine)
        machine.configure(loncMaxConnections=60, loncMaxClients=10)
        reload(machine)  # the clients passed on leave room for five connections
        reload(machine)
        for client in clients:
            client.sendall(b"ping\n")
        for client in clients[:91]:
            assert read_line(client) == b"l1"
        assert "cannot" not in machine.log()
        for client in clients:
            client.shutdown(socket.SHUT_WR)
        for client in clients[91:]:
            assert read_line(client) == b"l1"
        assert machine.status()["clients"] == 1

    def test_who_leaves_while_its_request_is_in_flight_makes_room_at_the_next_child(self, machine):
        released = threading.Event()

        def script(peer):
            peer.greet()
            while (line := peer.hear()) is not None:
                if line == b"slow":
                    released.wait(60)
                peer.say(line)

        machine.configure(loncMaxClients=3)
        with ScriptedLond(machine.address(1), machine.port, script):
            machine.start()
            clients = [machine.connect() for _ in range(3)]
            for client in clients:
                client.sendall(b"slow\n")
            eventually(lambda: _in_flight(machine) == 3)
            reload(machine)
            clients.pop().close()
            clients.pop().close()
            assert machine.ask(b"there is room") == b"there is room"
            released.set()
            assert read_line(clients.pop()) == b"slow"

    def test_a_new_child_that_is_killed_while_it_takes_over_costs_no_reply_that_was_due(self, machine):
        """The old child keeps its clients, and disconnects them after their replies."""
        released = threading.Event()

        def script(peer):
            peer.greet()
            while (line := peer.hear()) is not None:
                if line == b"slow":
                    released.wait(60)
                peer.say(line)

        with ScriptedLond(machine.address(1), machine.port, script):
            machine.start()
            client = machine.connect()
            client.sendall(b"slow\nnext\n")
            eventually(lambda: machine.status()["connections"].get("ReceivingReply") == 1)
            old = machine.children()["l1"]
            reload(machine)
            os.kill(machine.status()["pid"], signal.SIGKILL)
            late = machine.connect()
            late.sendall(b"late\n")
            assert read_line(late) == b"late"  # by a third child
            assert exists(old)
            released.set()
            assert read_to_the_end(client) == b"slow\nnext\n"
            eventually(lambda: not exists(old))

    def test_a_stop_in_the_midst_of_it_still_answers_what_was_taken(self, machine):
        released = threading.Event()

        def script(peer):
            peer.greet()
            while (line := peer.hear()) is not None:
                released.wait(60)
                peer.say(line)

        with ScriptedLond(machine.address(1), machine.port, script):
            machine.start()
            clients = []
            for number in range(3):  # one in flight in each of three children
                clients.append(machine.connect())
                clients[-1].sendall(b"%d\nnext\n" % number)
                eventually(lambda: machine.status()["connections"].get("ReceivingReply") == 1)
                reload(machine)
            machine.lonc.terminate()
            eventually(lambda: machine.socket_files() == [])
            released.set()
            for number, client in enumerate(clients):
                assert read_to_the_end(client) == b"%d\nnext\n" % number
            machine.lonc.wait()


class TestNewChildren:
    def test_one_that_does_not_become_ready_leaves_the_old_one_and_is_reported(self, machine, tmp_path):
        machine.hosts("l1", "l2")
        machine.start_lond("l1")
        flag = tmp_path / "flag"
        machine.start(program=program(preparations.hang_while, flag, "l1"))
        before = machine.children()
        kept = machine.connect()
        flag.touch()
        assert re.fullmatch(
            r"child \d+ of l1 was killed: it was not ready in time; the old one goes on\n"
            r"not all is reloaded: 1 of 2 hosts\n",
            reload(machine, status=1),
        )
        assert machine.log().count("it was not ready in time; the old one goes on\n") == 1
        assert machine.log().count("ERROR") == 1
        after = machine.children()
        assert after["l1"] == before["l1"]
        assert after["l2"] != before["l2"]
        kept.sendall(b"ping\n")
        assert read_line(kept) == b"l1"
        flag.unlink()
        reload(machine)
        kept.sendall(b"ping\n")
        assert read_line(kept) == b"l1"
        assert machine.children()["l1"] != before["l1"]

    def test_what_came_while_the_parent_was_held_up_came_in_time(self, machine):
        """After a slow disk read or a suspend of the machine: the next child was ready in time."""
        machine.start_lond("l1")
        machine.start(program=program(preparations.start_late, 0.2, None, 0.5))
        client = machine.connect()
        machine.lonc.send_signal(signal.SIGHUP)
        eventually(lambda: len(children_of(machine.lonc.pid)) == 2)
        machine.lonc.send_signal(signal.SIGSTOP)
        time.sleep(0.6)  # more than the 0.5 s within which a child must be ready
        machine.lonc.send_signal(signal.SIGCONT)
        eventually(lambda: "reloaded" in machine.log())
        client.sendall(b"ping\n")
        assert read_line(client) == b"l1"
        assert "killed" not in machine.log()

    def test_what_one_has_said_that_was_killed_counts_no_more(self, machine, tmp_path):
        machine.start_lond("l1")
        flag = tmp_path / "flag"
        machine.start(program=program(preparations.start_late_and_kill_late, flag))
        client = machine.connect()
        flag.touch()
        assert "was killed: it was not ready in time; the old one goes on" in reload(machine, status=1)
        client.sendall(b"ping\n")
        assert read_line(client) == b"l1"

    def test_no_descriptor_for_a_new_one_leaves_the_old_one_too(self, machine):
        machine.start_lond("l1")
        machine.start()
        parent, child = machine.lonc.pid, machine.children()["l1"]
        held = len(os.listdir(f"/proc/{parent}/fd"))
        limits = resource.prlimit(parent, resource.RLIMIT_NOFILE)
        machine.configure(loncMaxConnections=1)
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(machine.pid_file.with_name("lonc.ctl")))
            asking.sendall(b"status\n")
            read_line(asking)
            resource.prlimit(parent, resource.RLIMIT_NOFILE, (held + 3, limits[1]))
            # lonc raises a soft limit again, so the hard limit is lowered.
            resource.prlimit(parent, resource.RLIMIT_NOFILE, (held + 3, held + 3))
            asking.sendall(b"reload\n")
            said = read_line(asking).decode()
        assert "open files, and the limit is" in said
        assert machine.children()["l1"] == child
        assert machine.ask(b"ping") == b"l1"

    def test_an_old_one_that_hangs_is_replaced_all_the_same(self, machine, tmp_path):
        machine.start_lond("l1")
        machine.start(program=program(preparations.hang_while, tmp_path / "none", "l1"))
        hanging = machine.children()["l1"]
        os.kill(hanging, signal.SIGSTOP)
        assert reload(machine) == "reloaded, 1 host\n"
        assert not exists(hanging)
        why = f"WARNING {machine.lonc.pid} parent: child {hanging} of l1 was killed: it did not leave"
        assert why in machine.log()
        assert machine.ask(b"ping") == b"l1"

    def test_an_old_one_that_dies_while_the_next_one_starts(self, machine, tmp_path):
        machine.start_lond("l1")
        flag = tmp_path / "flag"
        machine.start(program=program(preparations.start_late, 0.3, flag))
        old = machine.children()["l1"]
        flag.touch()
        machine.lonc.send_signal(signal.SIGHUP)
        eventually(lambda: len(children_of(machine.lonc.pid)) == 2)
        os.kill(old, signal.SIGKILL)
        assert machine.ask(b"ping") == b"l1"
        assert f"child {old} of l1 was killed by SIGKILL; the next one is there already" in machine.log()
        assert len(re.findall(r"child \d+ of", machine.log())) == 1

    def test_a_host_that_is_new_and_whose_child_does_not_come_up_is_tried_again(self, machine, tmp_path):
        machine.hosts("l2")
        flag = tmp_path / "flag"
        machine.start(program=program(preparations.hang_while, flag, "l1"))
        flag.touch()
        machine.hosts("l1")
        said = reload(machine, status=1)
        assert re.match(r"child \d+ of l1 was killed: it was not ready in time\n", said)
        machine.start_lond("l1")  # before the child, which gives up a host after some attempts
        flag.unlink()
        assert machine.ask(b"ping") == b"l1"

    def test_a_host_that_is_gone_and_whose_child_hangs(self, machine):
        machine.hosts("l1", "l2")
        machine.configure(loncDrainTimeout=0.1)
        machine.start(program=program(preparations.kill_after, 0.2))
        hanging = machine.children()["l2"]
        os.kill(hanging, signal.SIGSTOP)
        machine.hosts("l1")
        assert reload(machine) == "reloaded, 1 host; gone: l2\n"
        eventually(lambda: not exists(hanging))
        why = f"child {hanging} of l2 was killed: it did not drain in time"
        eventually(lambda: why in machine.log())

    def test_an_old_one_that_hangs_while_the_new_one_dies(self, machine, tmp_path):
        machine.start_lond("l1")
        machine.start(program=program(preparations.hang_while, tmp_path / "none", "l1"))
        old = machine.children()["l1"]
        os.kill(old, signal.SIGSTOP)
        machine.lonc.send_signal(signal.SIGHUP)
        new = eventually(lambda: [each for each in children_of(machine.lonc.pid) if each != old])[0]
        eventually(lambda: "Retries remaining" in title(new))
        os.kill(new, signal.SIGKILL)
        eventually(lambda: not exists(old))
        assert machine.ask(b"ping") == b"l1"

    def test_a_child_that_asks_to_be_replaced_and_dies(self, machine):
        """The channel is read after the child was reaped; its pid may be reused by then."""
        enough = machine.directory / "enough"
        machine.start(program=program(preparations.say_nonsense_and_exit, enough))
        enough.touch()
        os.kill(machine.children()["l1"], signal.SIGKILL)
        eventually(lambda: machine.log().count("child ") > 2)
        assert machine.lonc.poll() is None
        assert machine.crashes() == []


class TestStatusMeanwhile:
    def test_it_is_complete_while_a_reload_is_on(self, machine):
        hosts = [f"h{number}" for number in range(30)]
        machine.hosts(*hosts)
        machine.start()
        command = [*LONC, "-c", machine.configuration]
        states = set()
        for _ in range(4):
            reloading = subprocess.Popen([*command, "reload"], stdout=subprocess.DEVNULL)
            while reloading.poll() is None:
                with socket.socket(socket.AF_UNIX) as asking:
                    asking.connect(str(machine.pid_file.with_name("lonc.ctl")))
                    asking.sendall(b"status\n")
                    report = json.loads(read_line(asking))
                states.add(report["phase"])
                assert [host["host"] for host in report["hosts"]] == hosts
                assert all("done" in host for host in report["hosts"]), report
        assert states == {"running", "reloading"}


def test_all_of_it_under_load(machine):
    """Six reloads, half of them faulty, three children killed, and at last a restart."""
    machine.hosts("l1", "l2", "l3")
    for host in ("l1", "l2", "l3"):
        machine.start_lond(host)
    machine.start()
    good = machine.table.read_text()
    killed = {}
    lost = {}

    def phase(name, what):
        """Call `what` while fifty clients send requests; lost replies are counted for this phase."""
        done = threading.Event()

        def act():
            try:
                what()
            finally:
                done.set()

        paths = [machine.sockets / host for host in ("l1", "l2", "l3")]
        acting = threading.Thread(target=act)
        acting.start()
        load = Load(paths, clients=50, anew=25, requests=2, longest=200, until=done.is_set).run()
        acting.join()
        lost[name] = (load.lost, load.refused)
        return load.done

    def reloads():
        for number in range(6):
            machine.table.write_text(good + ("nonsense\n" if number % 2 else ""))
            reload(machine, status=6 if number % 2 else 0)
        machine.table.write_text(good)

    def kills():
        for host in ("l1", "l2", "l1"):
            pid = eventually(lambda host=host: machine.children().get(host))
            os.kill(pid, signal.SIGKILL)
            killed[pid] = host
            eventually(lambda host=host, pid=pid: machine.status(host)["pid"] != pid)

    def restart():
        assert machine.command("restart").returncode == 0

    done = [phase("reloads", reloads), phase("kills", kills)]
    assert lost["reloads"] == ([], [])
    assert lost["kills"][1] == []
    assert set(lost["kills"][0]) <= {"l1", "l2"}
    done.append(phase("restart", restart))
    machine.start()
    print(f"done {done}; lost by { ({name: len(each[0]) for name, each in lost.items()}) }")
    assert all(done)
