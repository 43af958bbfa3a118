"""`lonc run` as a whole: real processes, real sockets, real signals."""

import contextlib
import ctypes
import fcntl
import json
import os
import pty
import re
import resource
import signal
import socket
import subprocess
import termios
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
    in_child,
    read_line,
    read_to_the_end,
    title,
)
from support.scripted_lond import ScriptedLond, echoing

import lonc

NOBODY = 65534
OWNERS = [
    (0, NOBODY, "ok"),  # root
    (NOBODY, os.getegid(), "ok"),  # another user in the daemon's group
    (NOBODY, NOBODY, "refused"),
]


@pytest.fixture
def up(machine):
    """One host, l1, with a demo lond."""
    machine.start_lond("l1")
    machine.run()
    return machine


@pytest.fixture
def three(machine):
    machine.hosts("l1", "l2", "l3")
    for host in ("l1", "l2", "l3"):
        machine.start_lond(host)
    machine.run()
    return machine


def _another(pid, than):
    return pid if pid != than else None


def cpu_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


class TestClients:
    def test_plain_and_encrypted(self, up):
        assert up.ask(b"ping") == b"l1"
        assert up.ask(b"pong") == b"a1"
        assert up.ask(b"encrypt:echo:secret") == b"secret"
        assert up.ask(b"put:d:u:passwd:password=p") == b"ok"
        assert up.ask(b"auth:d:u:p") == b"refused"
        assert up.ask(b"encrypt:auth:d:u:p") == b"authorized"
        assert up.ask(b"") == b"unknown_cmd"
        assert up.ask(b"echo:\0\xff\r\t") == b"\0\xff\r\t"

    @pytest.mark.parametrize("alive", [True, False])
    def test_ten_thousand_lines_in_one_write(self, machine, alive):
        if alive:
            machine.start_lond("l1")
        machine.run()
        with machine.connect() as client:
            lines = b"".join(b"echo:%d\n" % number for number in range(10_000))
            expected = b"".join(
                (b"%d\n" % number if alive else b"con_lost\n") for number in range(10_000)
            )
            client.setblocking(False)
            received = bytearray()
            sent = 0
            deadline = time.monotonic() + 60
            while len(received) < len(expected):
                assert time.monotonic() < deadline
                with contextlib.suppress(BlockingIOError):
                    sent += client.send(lines[sent:])
                with contextlib.suppress(BlockingIOError):
                    received += client.recv(1 << 20)
            assert received == expected
        status = machine.status()
        assert (status["done"], status["failed"]) == ((10_000, 0) if alive else (0, 10_000))
        assert status["state"] == ("ready" if alive else "DEAD")

    def test_a_request_over_the_limit(self, machine):
        machine.configure(loncMaxRequest=1000)
        machine.start_lond("l1")
        machine.run()
        assert machine.ask(b"echo:" + b"x" * 995) == b"x" * 995
        client = machine.connect()
        client.sendall(b"x" * 1001 + b"\n")
        assert read_line(client) == b"error: request too long"
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""
        assert machine.ask(b"ping") == b"l1"

    def test_a_client_that_closes_its_sending_side_gets_its_reply(self, up):
        client = up.connect()
        client.sendall(b"ping\nping\n")
        client.shutdown(socket.SHUT_WR)
        assert read_line(client) in (b"l1", b"l1\nl1")
        eventually(lambda: up.status()["clients"] == 1)

    def test_clients_that_leave_before_during_and_after_do_not_harm_the_next(self, up):
        for number in range(300):
            client = up.connect()
            if number % 3 == 0:
                client.sendall(b"echo:half")
            else:
                client.sendall(b"echo:%d\n" % number)
            if number % 3 == 2:
                assert read_line(client) == b"%d" % number
            client.close()
        assert up.ask(b"ping") == b"l1"
        eventually(lambda: up.status()["clients"] == 1)
        status = up.status()
        assert status["waiting"] == 0
        assert set(status["connections"]) == {"Idle"}

    def test_a_client_that_never_reads_holds_up_nobody(self, up):
        hogs = [up.connect() for _ in range(20)]
        for hog in hogs:
            hog.sendall(b"echo:" + b"x" * 2_000_000 + b"\n")
        for number in range(100):
            assert up.ask(b"echo:%d" % number) == b"%d" % number

    def test_five_hundred_clients_at_once(self, up):
        load = Load([up.sockets / "l1"], clients=500, requests=4).run()
        assert (load.done, load.refused, load.lost) == (2000, [], [])
        assert int(up.ask(b"connections").split(b":")[1]) <= 5

    def test_more_clients_than_the_most_wait_and_are_served_when_others_leave(self, machine):
        machine.configure(loncMaxClients=10)
        machine.start_lond("l1")
        machine.run()
        load = Load([machine.sockets / "l1"], clients=100, requests=3).run()
        assert (load.done, load.refused, load.lost) == (300, [], [])
        assert machine.log().count("10 clients are connected") == 1
        assert machine.status()["clients"] == 1

    def test_few_descriptors_mean_fewer_clients(self, machine):
        machine.start_lond("l1")
        machine.run(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)))
        log = "at most 219 clients a host, not 1000: the limit of open files is 256"
        assert machine.log().count(log) == 1
        clients = [machine.connect() for _ in range(300)]
        child = machine.children()["l1"]
        eventually(lambda: machine.log().count("219 clients are connected") == 1)
        before = cpu_ticks(child)
        served = 0
        for client in clients:
            client.sendall(b"ping\n")
        for client in clients[:219]:
            served += read_line(client) == b"l1"
            client.close()
        for client in clients[219:]:
            served += read_line(client) == b"l1"
        assert served == 300
        time.sleep(0.2)
        assert cpu_ticks(child) - before < 20  # nothing spins

    def test_too_few_descriptors_for_the_table_are_said(self, machine):
        machine.hosts(*[f"h{number}" for number in range(50)])
        process = machine.run(
            wait=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        )
        assert process.wait(20) == 1
        assert "lonc: 50 hosts need 228 open files, and the limit is 100: raise it" in machine.log()
        assert machine.socket_files() == []


class TestRequestsForLoncItself:
    def test_status(self, up):
        eventually(lambda: up.status()["state"] == "ready")
        up.ask(b"ping")
        status = up.status()
        for name in ("since", "state_since"):
            since = status.pop(name)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d", since)
        took = status["seconds"]
        assert 0 < took < 60
        for name in ("last_minute", "last_hour", "last_minute_lond", "last_hour_lond"):
            times = status.pop(name)
            assert set(times) == {"p50", "p90", "p99", "max"}
            assert times["max"] == pytest.approx(took, abs=1e-5)
        assert [change[1:] for change in status.pop("changes")] == [
            ["ready", None],
            ["connecting", None],
            ["ready", "connected"],
        ]
        for name in ("last_minute_wait", "last_hour_wait"):
            assert status.pop(name) == {"p50": 0.0, "p90": 0.0, "p99": 0.0, "max": 0.0}
        for name in ("durations", "wait_durations", "lond_durations"):
            assert status.pop(name)[-1] == 1
        assert 1 << 20 < status.pop("memory") < 200 << 20
        assert status == {
            "host": "l1",
            "state": "ready",
            "mode": "classic",
            "connections": {"Idle": 1},
            "max_connections": 5,
            "clients": 1,
            "waiting": 0,
            "oldest_wait": 0.0,
            "oldest_in_flight": 0.0,
            "done": 1,
            "failed": 0,
            "reasons": {},
            "out_of_step": 0,
            "wrong_keys": 0,
            "fallbacks": 0,
            "fallbacks_last_hour": 0,
            "sent": len("ping\n"),
            "received": len("l1\n"),
            "seconds": took,
            "wait_seconds": 0.0,
            "lond_seconds": took,
            "saturated_last_minute": 0.0,
            "saturated_seconds": 0.0,
            "done_by_minute": [0] * 59 + [1],
            "failed_by_minute": [0] * 60,
            "delayed": 0,
            "pid": up.children()["l1"],
            "version": "0.1.0",
        }

    @pytest.mark.parametrize("encrypt", [b"", b"encrypt:"])
    @pytest.mark.parametrize(
        "request_", [b"init", b"init:x", b"ekey", b"ekey:x", b"exit", b"exit:", b"sethost:l1:x"]
    )
    def test_what_would_change_a_shared_connection_is_refused(self, up, request_, encrypt):
        assert up.ask(encrypt + request_) == b"refused"
        assert up.status()["done"] == 0

    def test_an_unknown_request_for_lonc(self, up):
        assert up.ask(b"lonc:statu") == b"error: unknown lonc command"
        assert up.ask(b"lonc:") == b"error: unknown lonc command"

    def test_what_only_looks_alike_goes_to_lond(self, up):
        for request in (b"encrypt:lonc:status", b"reset_retries2", b"close_connection_exit:x", b"ini"):
            assert up.ask(request) == b"unknown_cmd"

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
    @pytest.mark.parametrize("request_", [b"reset_retries", b"close_connection_exit"])
    @pytest.mark.parametrize(("user", "group", "reply"), OWNERS)
    def test_who_may_order(self, machine, request_, user, group, reply):
        machine.configure(loncSocketMode="0666")
        machine.run()
        machine.sockets.chmod(0o755)

        def ask():
            os.chdir(machine.sockets)  # other users cannot enter the directories above it
            os.setgroups([])
            os.setresgid(group, group, group)
            os.setresuid(user, user, user)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect("l1")
                client.sendall(request_ + b"\n")
                return read_line(client).decode()

        assert in_child(ask) == reply
        assert in_child(ask) == reply  # although the first request got no reply

    def test_reset_retries_of_a_dead_host(self, machine):
        machine.run()
        machine.ask(b"ping")
        assert machine.status()["state"] == "DEAD"
        machine.start_lond("l1")
        assert machine.ask(b"reset_retries") == b"ok"
        eventually(lambda: machine.status()["state"] == "ready")

    def test_close_connection_exit_replaces_the_child_and_no_client_notices(self, machine):
        release = []

        def script(peer):
            peer.greet()
            while (line := peer.hear()) is not None:
                if line == b"slow":
                    eventually(lambda: release)
                peer.say(line)

        with ScriptedLond(machine.address(1), machine.port, script):
            machine.run()
            first = machine.children()["l1"]
            slow, asking = machine.connect(), machine.connect()
            slow.sendall(b"slow\nnext\n")
            eventually(lambda: machine.status()["connections"].get("ReceivingReply") == 1)
            asking.sendall(b"close_connection_exit\n")
            assert read_line(asking) == b"ok"
            second = eventually(lambda: machine.status()["pid"] != first and machine.status()["pid"])
            asking.sendall(b"still there\n")
            assert read_line(asking) == b"still there"
            assert exists(first)  # it has a request in flight
            release.append(True)
            slow.shutdown(socket.SHUT_WR)
            assert read_to_the_end(slow) == b"slow\nnext\n"
            eventually(lambda: not exists(first))
            assert machine.status()["pid"] == second
            for _ in range(3):
                assert machine.ask(b"close_connection_exit") == b"ok"
                before = second
                second = eventually(lambda before=before: _another(machine.status()["pid"], before))
            assert "replaced" not in machine.log()
            assert "WARNING" not in machine.log()
            machine.stop()

    def test_many_who_ask_for_the_end_at_once_are_all_told_ok(self, up):
        child = up.children()["l1"]
        clients = [up.connect() for _ in range(400)]
        os.kill(child, signal.SIGSTOP)  # so that it sees all of them in one turn
        for client in clients:
            client.sendall(b"close_connection_exit\n")
        os.kill(child, signal.SIGCONT)
        assert [read_line(client) for client in clients] == [b"ok"] * 400
        assert up.ask(b"ping") == b"l1"
        assert up.crashes() == []


class TestPool:
    def test_never_more_connections_than_the_most_as_lond_counts_them(self, machine):
        machine.configure(loncMaxConnections=3)
        machine.start_lond("l1")
        machine.run()
        load = Load([machine.sockets / "l1"], clients=60, requests=30).run()
        assert (load.done, load.lost) == (1800, [])
        assert machine.ask(b"connections") == b"3:3"

    def test_a_connection_that_breaks_fails_only_its_own_transaction(self, machine):
        def script(peer):
            peer.greet()
            while (line := peer.hear()) is not None:
                if line == b"break":
                    return
                peer.say(line)

        with ScriptedLond(machine.address(1), machine.port, script):
            machine.run()
            keeping = [machine.connect() for _ in range(4)]
            for round_ in range(20):
                for number, client in enumerate(keeping):
                    client.sendall(b"break\n" if number == 0 else b"%d\n" % round_)
                replies = [read_line(client) for client in keeping]
                assert replies == [b"con_lost"] + [b"%d" % round_] * 3
            status = machine.status()
            assert (status["done"], status["failed"]) == (60, 20)
            machine.stop()

    def test_retries_count_down_to_dead_and_a_lond_that_comes_back_is_served(self, machine):
        machine.configure(loncConnectRetries=3, loncRetryDelay=60)
        machine.run()
        child = machine.children()["l1"]
        eventually(lambda: title(child) == "lonc: l1 Connection count: 0 Retries remaining: 2")
        assert machine.ask(b"ping") == b"con_lost"
        assert title(child) == "lonc: l1 Connection count: 0 Retries remaining: 1"
        assert machine.status()["state"] == "connecting"
        for _ in range(3):
            assert machine.ask(b"ping") == b"con_lost"
            assert title(child) == "lonc: l1 >>> DEAD !!!! <<<"
        assert machine.status()["state"] == "DEAD"
        assert machine.log().count("DEAD: an attempt failed: cannot connect to ") == 1
        machine.start_lond("l1")
        assert machine.ask(b"ping") == b"con_lost"  # a client's request starts no attempt
        assert machine.ask(b"reset_retries") == b"ok"
        eventually(lambda: title(child) == "lonc: l1 Connection count: 1 Retries remaining: 3")
        assert machine.ask(b"ping") == b"l1"

    def test_a_dead_host_is_served_again_by_itself(self, machine):
        machine.configure(loncRetryDelay=0.1, loncRetryMaxDelay=0.5)
        machine.run()
        eventually(lambda: machine.status()["state"] == "DEAD")
        lond = machine.start_lond("l1")
        eventually(lambda: machine.status()["state"] == "ready")
        assert machine.ask(b"ping") == b"l1"
        assert machine.status()["failed"] == 0
        lond.kill()
        eventually(lambda: machine.status()["connections"] == {})

    def test_a_host_without_an_address_is_found_by_its_name(self, machine):
        machine.table.write_text("l1:dom:library:localhost\nl2:dom:library:l2.invalid\n")
        with ScriptedLond("127.0.0.1", 0, echoing) as lond:
            machine.configure(londPort=lond.port)
            machine.run()
            assert machine.ask(b"hello") == b"hello"
            assert machine.ask(b"ping", "l2") == b"con_lost"
            assert re.search(
                "l2: (DEAD: )?an attempt failed: cannot resolve l2.invalid: ", machine.log()
            )
            machine.stop()

    def test_a_lond_that_refuses_us(self, machine):
        with ScriptedLond(
            machine.address(1), machine.port, lambda peer: (peer.hear(), peer.say(b"refused"))
        ):
            machine.run()
            assert machine.ask(b"ping") == b"con_lost"
            assert r"lond answered init with b'refused\n'" in machine.log()
            machine.stop()

    def test_a_lond_that_takes_fewer_connections_than_we_may_have_is_no_flood_in_the_log(self, machine):
        gate = threading.BoundedSemaphore(2)

        def script(peer):
            if not gate.acquire(blocking=False):
                return
            try:
                peer.greet()
                peer.echo()
            finally:
                gate.release()

        with ScriptedLond(machine.address(1), machine.port, script) as lond:
            machine.run()
            load = Load([machine.sockets / "l1"], clients=20, requests=50, echo=b"").run()
            assert (load.done, load.lost) == (1000, [])
            assert lond.accepted >= 3
            assert machine.log().count("an attempt failed") <= 3
            assert machine.status()["state"] == "ready"
            machine.stop()

    def test_a_lond_that_says_more_than_was_due_reaches_no_stranger(self, machine):
        """Extra lines from lond in the same segment, and at the limit of one recv."""

        def script(peer):
            peer.greet()
            while (line := peer.hear()) is not None:
                kind, _, number = line.partition(b":")
                reply = b"mine:" + number
                if kind == b"edge":
                    reply = reply.ljust(4095, b".")
                peer.say(reply, *([] if kind == b"good" else [b"stranger"]))

        with ScriptedLond(machine.address(1), machine.port, script):
            machine.configure(loncMaxConnections=1)
            # Small enough that the reply and the extra line arrive in one piece.
            machine.run_with(preparations.receive_at_most, 4096)
            clients = [machine.connect() for _ in range(6)]
            for round_ in range(30):
                for number, client in enumerate(clients):
                    kind = (b"good", b"surplus", b"edge")[(round_ + number) % 3]
                    client.sendall(b"%b:%d\n" % (kind, number))
                for number, client in enumerate(clients):
                    assert read_line(client).rstrip(b".") == b"mine:%d" % number
            machine.stop()


class TestParentAndChild:
    def test_titles(self, three):
        assert title(three.lonc.pid) == "lonc: parent, 3 hosts"
        assert set(three.children()) == {"l1", "l2", "l3"}
        for host, pid in three.children().items():
            connected = f"lonc: {host} Connection count: 1 Retries remaining: 2"
            eventually(lambda pid=pid, connected=connected: title(pid) == connected)

    def test_a_child_holds_only_what_is_its_own(self, three):
        def kinds(pid):
            """Targets of the descriptors of a process, without inode numbers."""
            found = []
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    found.append(os.readlink(f"/proc/{pid}/fd/{fd}").split("[")[0])
            return sorted(found)

        def served(host):
            pid = three.children().get(host)
            # Listener, channel, two for wakeup, a connection to lond.
            return pid not in (None, killed) and kinds(pid).count("socket:") == 5

        killed = None
        for host in ("l1", "l2", "l3"):
            eventually(lambda host=host: served(host))
        parent = kinds(three.lonc.pid)
        killed = three.children()["l2"]
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: served("l2"))
        for pid in three.children().values():
            # With the standard streams; no lock, nothing of a sibling. A scan of the spool may be open.
            eventually(lambda pid=pid: len(kinds(pid)) == 10)
            held = kinds(pid)
            assert held.count("anon_inode:") == 2  # the two epolls
        assert kinds(three.lonc.pid) == parent

    def test_a_second_run_over_the_same_sockets_ends_with_a_sentence(self, up, tmp_path):
        before = sorted((each.name, each.stat().st_ino) for each in up.sockets.iterdir())
        other = tmp_path / "other.conf"
        (tmp_path / "daemons2").mkdir()
        other.write_text(
            up.configuration.read_text() + f"PerlSetVar lonDaemons {tmp_path / 'daemons2'}\n"
        )
        for configuration in (up.configuration, other):
            done = subprocess.run([*LONC, "-c", configuration, "run"], capture_output=True, timeout=20)
            assert done.returncode == 1
            assert (
                done.stderr.decode()
                == f"lonc: {up.sockets} is in use by another lonc, pid {up.lonc.pid}\n"
            )
        assert sorted((each.name, each.stat().st_ino) for each in up.sockets.iterdir()) == before
        assert up.pid_file.read_text() == f"{up.lonc.pid}\n"
        assert up.ask(b"ping") == b"l1"

    def test_a_second_run_over_the_same_logs_ends_with_a_sentence(self, up, tmp_path):
        other = tmp_path / "other.conf"
        other.write_text(up.configuration.read_text() + f"PerlSetVar lonSockDir {tmp_path / 'other'}\n")
        done = subprocess.run([*LONC, "-c", other, "run"], capture_output=True, timeout=20)
        assert (done.returncode, done.stderr.decode()) == (
            1,
            f"lonc: {up.pid_file.parent} is in use by another lonc, pid {up.lonc.pid}\n",
        )
        assert up.pid_file.read_text() == f"{up.lonc.pid}\n"
        assert set(os.listdir(tmp_path / "other")) == {"delayed", ".lonc~lock"}

    def test_after_kill_9_of_the_parent_no_child_is_left_and_the_next_run_starts(self, three):
        for _ in range(3):
            children = list(three.children().values())
            assert len(children) == 3
            os.kill(children[0], signal.SIGSTOP)  # it cannot notice the parent's death itself
            three.lonc.kill()
            three.lonc.wait()
            eventually(lambda children=children: not any(map(exists, children)))
            three.run()
            assert three.ask(b"ping", "l3") == b"l3"

    @pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
    def test_a_dead_child_is_replaced_at_once_and_named_once_in_the_log(self, three, signum):
        keeping = three.connect("l1")
        dead = three.children()["l2"]
        os.kill(dead, signum)
        assert three.ask(b"ping", "l2") == b"l2"
        assert three.children()["l2"] != dead
        assert (
            three.log().count(f"child {dead} of l2 was killed by {signum.name}; replaced at once") == 1
        )
        assert three.log().count(str(dead) + " of") == 1
        keeping.sendall(b"ping\n")
        assert read_line(keeping) == b"l1"

    def test_a_child_that_keeps_dying_is_replaced_after_growing_delays(self, up):
        for _ in range(3):
            dead = eventually(lambda: up.children().get("l1"))
            os.kill(dead, signal.SIGKILL)
            eventually(lambda dead=dead: up.log().count(f"child {dead} of l1"))
        delays = re.findall(r"replaced (?:in )?(\S+)", up.log())
        assert delays[0] == "at"
        assert 0.7 <= float(delays[1]) <= 1
        assert 1.5 <= float(delays[2]) <= 2
        assert up.ask(b"ping") == b"l1"  # the connect waits in the backlog

    def test_one_that_lived_long_is_replaced_as_if_it_were_the_first_to_die(self, machine):
        machine.run_with(preparations.lived_long_after, 0.2)
        for _ in range(3):
            dead = eventually(lambda: machine.children().get("l1"))
            time.sleep(0.3)  # longer than LIVED_LONG
            os.kill(dead, signal.SIGKILL)
            eventually(lambda dead=dead: machine.log().count(f"child {dead} of l1"))
        assert machine.log().count("was killed by SIGKILL; replaced at once") == 3

    def test_no_descriptor_left_to_replace_a_child_is_no_end_of_the_others(self, machine):
        machine.hosts("l1", "l2")
        for host in ("l1", "l2"):
            machine.start_lond(host)
        machine.run()
        parent = machine.lonc.pid
        held = len(os.listdir(f"/proc/{parent}/fd"))
        before = resource.prlimit(parent, resource.RLIMIT_NOFILE)
        resource.prlimit(parent, resource.RLIMIT_NOFILE, (held - 1, before[1]))
        dead = machine.children()["l1"]
        os.kill(dead, signal.SIGKILL)
        eventually(
            lambda: "cannot fork a child for l1: Too many open files; replaced in" in machine.log()
        )
        assert machine.ask(b"ping", "l2") == b"l2"
        resource.prlimit(parent, resource.RLIMIT_NOFILE, before)
        assert machine.ask(b"ping", "l1") == b"l1"

    def test_a_child_that_says_what_it_should_not_is_killed_and_replaced(self, machine):
        machine.run_with(preparations.say_nonsense_when_ready)
        eventually(lambda: "was killed: it said b'nonsense" in machine.log())
        assert machine.lonc.poll() is None

    @pytest.mark.parametrize("status", [b"nonsense", b"{}", b'{"host": 1, "state": 2}', b"[" * 9999])
    def test_a_child_whose_status_makes_no_sense_is_killed_and_replaced(self, machine, status):
        machine.run_with(preparations.report_status, status)
        child = machine.children()["l1"]
        (host,) = json.loads(asked(machine, b"status"))["hosts"]
        assert host["state"] == "no child"
        eventually(lambda: f"child {child} of l1 was killed: its status makes no sense" in machine.log())
        assert machine.lonc.poll() is None

    def test_a_child_whose_status_is_out_of_its_bounds_goes_on(self, machine):
        status = b'{"host": "l1", "state": "ready", "clients": -1, "waiting": 3, "seconds": NaN}'
        machine.run_with(preparations.report_status, status)
        child = machine.children()["l1"]
        (host,) = json.loads(asked(machine, b"status"))["hosts"]
        known = (host["state"], host["clients"], host["waiting"], host["seconds"])
        assert known == ("ready", None, 3, None)
        assert machine.children()["l1"] == child
        assert "was killed" not in machine.log()

    def test_the_last_words_of_a_child_are_heard_whatever_is_in_them(self, machine):
        machine.run_with(preparations.crash_when_asked_for_status)
        asked(machine, b"status")
        eventually(lambda: r"exited with status 1: Exception: one\ntwo\udcff (" in machine.log())

    def test_the_crash_of_a_child_leaves_its_last_words(self, machine):
        """A child with an unexpected exception: here, at a line that the parent never sends."""
        machine.run()
        child = machine.children()["l1"]
        with steal_channel(machine.lonc.pid) as channel:
            channel.sendall(b"nonsense\n")
        words = r"exited with status 1: ValueError: the parent said b'nonsense\\n' \(child_process\.py"
        eventually(lambda: re.search(f"WARNING .* child {child} of l1 {words}", machine.log()))
        assert machine.log().count("nonsense") == 1
        eventually(lambda: machine.children().get("l1") not in (None, child))

    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_term_and_int_end_the_children_and_remove_the_sockets(self, three, signum):
        children = list(three.children().values())
        keeping = three.connect("l1")
        assert three.stop(signum) == 0
        assert not any(map(exists, children))
        assert three.socket_files() == []
        assert not three.pid_file.exists()
        assert keeping.recv(1) == b""
        assert three.log().count("stopping: ") == 1
        assert three.log().splitlines()[-1].endswith(" parent: stopped")

    def test_signals_that_our_starter_had_blocked_are_heard(self, machine):
        everything = signal.valid_signals()
        machine.run(preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, everything))
        os.kill(machine.children()["l1"], signal.SIGTERM)
        eventually(lambda: " exited; replaced at once" in machine.log())
        assert machine.stop() == 0

    def test_term_lets_a_request_in_flight_end_and_a_second_term_does_not(self, machine):
        release = []

        def script(peer):
            peer.greet()
            while (line := peer.hear()) is not None:
                eventually(lambda: release)
                peer.say(line)

        with ScriptedLond(machine.address(1), machine.port, script):
            for again in (False, True):
                machine.run()
                client = machine.connect()
                client.sendall(b"slow\n")
                eventually(lambda: machine.status()["connections"].get("ReceivingReply") == 1)
                machine.lonc.send_signal(signal.SIGTERM)
                eventually(lambda: machine.socket_files() == [])
                if again:
                    release.clear()
                    machine.lonc.send_signal(signal.SIGTERM)
                    with contextlib.suppress(ConnectionResetError):
                        assert read_line(client) == b""
                else:
                    release.append(True)
                    assert read_line(client) == b"slow"
                    release.clear()
                assert machine.lonc.wait(20) == 0
            release.append(True)

    def test_when_the_time_to_drain_is_up_what_remains_is_told_con_lost(self, machine):
        machine.configure(loncDrainTimeout=0.3)
        with ScriptedLond(
            machine.address(1), machine.port, lambda peer: (peer.greet(), peer.hear(), peer.hear())
        ):
            machine.run()
            client = machine.connect()
            client.sendall(b"one\ntwo\n")
            eventually(lambda: machine.status()["connections"].get("ReceivingReply") == 1)
            assert machine.stop() == 0
            assert client.recv(100) == b"con_lost\ncon_lost\n"

    def test_a_child_that_does_not_hear_term_is_killed_in_the_end(self, machine):
        machine.configure(loncDrainTimeout=0.1)
        machine.run_with(preparations.kill_after, 0.3)
        child = machine.children()["l1"]
        os.kill(child, signal.SIGSTOP)
        assert machine.stop() == 0
        assert not exists(child)
        assert f"child {child} of l1 was killed: it did not drain in time" in machine.log()

    def test_a_socket_that_is_no_longer_ours_is_not_removed(self, up):
        path = up.sockets / "l1"
        path.unlink()
        path.write_text("another's")
        assert up.stop() == 0
        assert path.read_text() == "another's"

    def test_a_pid_file_that_cannot_be_written_is_a_sentence(self, machine):
        machine.pid_file.parent.mkdir()
        machine.pid_file.mkdir()
        assert machine.run(wait=False).wait(20) == 1
        assert f"lonc: cannot write {machine.pid_file}: Is a directory\n" in machine.log()
        assert machine.socket_files() == []

    def test_a_socket_that_cannot_be_bound_leaves_nothing_behind(self, machine):
        machine.hosts("l1", "l2")
        machine.sockets.mkdir(mode=0o750)
        (machine.sockets / "l2").mkdir()
        assert machine.run(wait=False).wait(20) == 1
        assert f"lonc: {machine.sockets}/l2 is in the way, and no socket: remove it" in machine.log()
        assert machine.socket_files() == ["l2"]

    def test_directories_are_made_where_their_parent_exists_and_with_their_mode(self, machine):
        machine.run()
        for directory in (machine.sockets, machine.pid_file.parent):
            assert oct(directory.stat().st_mode) == "0o40750"
        assert oct((machine.sockets / "delayed").stat().st_mode) == "0o43770"
        machine.stop()
        machine.configure(lonSockDir=machine.directory / "no" / "where")
        assert machine.run(wait=False).wait(20) == 1
        assert (
            f"lonc: cannot make {machine.directory}/no/where (lonSockDir): No such file" in machine.log()
        )

    def test_control_c_at_a_terminal_reaches_the_children_too_and_ends_all(self, machine):
        machine.hosts("l1", "l2", "l3")
        controller, terminal = pty.openpty()
        try:
            process = machine.run(
                wait=False,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(terminal, termios.TIOCSCTTY, 0),
            )
            eventually(machine.serves)
            children = list(machine.children().values())
            os.write(controller, b"\x03")
            assert process.wait(20) == 0
            assert not any(map(exists, children))
            assert machine.socket_files() == []
            assert "was killed by" not in machine.log()
        finally:
            os.close(controller)
            os.close(terminal)

    def test_signals_that_arrive_during_a_fork_are_neither_lost_nor_deadly(self, machine):
        hosts = [f"h{number}" for number in range(8)]
        machine.hosts(*hosts)
        machine.run()
        seen = set()
        deadline = time.monotonic() + 3
        ignored = (
            signal.SIGINT,
            signal.SIGHUP,
            signal.SIGUSR1,
            signal.SIGUSR2,
            signal.SIGQUIT,
            signal.SIGPIPE,
        )
        while time.monotonic() < deadline:
            for pid in children_of(machine.lonc.pid):
                with contextlib.suppress(ProcessLookupError):
                    if pid not in seen:  # as soon as it exists
                        for signum in ignored:
                            os.kill(pid, signum)
                        os.kill(pid, signal.SIGTERM)
                        seen.add(pid)
            for signum in (signal.SIGUSR1, signal.SIGUSR2):
                machine.lonc.send_signal(signum)
        assert len(seen) >= 16  # the first ones, and their immediate replacements
        assert machine.lonc.poll() is None
        assert "was killed by" not in machine.log()
        assert "exited with status" not in machine.log()
        # Each SIGTERM was handled: those children have exited, and their successors serve.
        eventually(lambda: set(machine.children()) == set(hosts))
        eventually(lambda: not seen & set(machine.children().values()))
        children = list(machine.children().values())
        assert machine.stop() == 0
        assert not any(map(exists, children))

    @pytest.mark.parametrize("children", [1, 10, 40])
    def test_a_term_while_the_children_are_being_forked_ends_all_of_them(self, machine, children):
        machine.hosts(*[f"h{number}" for number in range(50)])
        process = machine.run(wait=False)
        eventually(lambda: len(children_of(process.pid)) >= children)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert machine.socket_files() == []
        left = len(re.findall(r"child \d+ of h\d+ exited$", machine.log(), re.M))
        assert children <= left <= 50
        assert len(re.findall(r"child \d+", machine.log())) == left

    def test_as_process_1_it_reaps_strangers(self, machine):
        unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
            pytest.skip("no rights to make a namespace of processes")
        machine.start_lond("l1")
        # A shell that execs lonc leaves it a child that lonc has not forked, and a grandchild.
        script = '(sh -c "sleep 0.2 & exit" &) ; exec "$@"'
        with machine.log_file.open("ab") as log:
            process = subprocess.Popen(
                [*unshare, "sh", "-c", script, "sh", *LONC, "-c", machine.configuration, "run"],
                stderr=log,
            )
        try:
            eventually(lambda: machine.pid_file.exists() and machine.pid_file.read_text() == "1\n")
            assert machine.ask(b"ping") == b"l1"
            (init,) = children_of(process.pid)
            orphan = subprocess.run(
                ["nsenter", "-t", str(init), "-p", "-m", "sh", "-c", "sleep 0.1 & exit"], check=True
            )
            assert orphan.returncode == 0
            eventually(lambda: len(children_of(init)) == 1)
            (child,) = children_of(init)
            os.kill(child, signal.SIGKILL)
            eventually(lambda: len(children_of(init)) == 1 and children_of(init) != [child])
            assert machine.ask(b"ping") == b"l1"
            assert len(re.findall(r"child \d+ of", machine.log())) == 1
        finally:
            os.kill(children_of(process.pid)[0], signal.SIGTERM)
            assert process.wait(20) == 0

    def test_an_idle_child_wakes_never(self, three):
        pids = [three.lonc.pid, *three.children().values()]
        for host in three.children():
            three.ask(b"ping", host)

        def switches():
            return [re.search(r"^voluntary_ctxt_switches:\s(\d+)", status(pid), re.M)[1] for pid in pids]

        def status(pid):
            return Path(f"/proc/{pid}/status").read_text()

        def unchanged():
            before = switches()
            time.sleep(1)
            return switches() == before

        eventually(unchanged)


def steal_channel(pid):
    """The parent's end of the channel to its only child, duplicated into this process."""
    libc = ctypes.CDLL(None)
    pidfd = os.pidfd_open(pid)
    youngest = max(
        int(fd)
        for fd in os.listdir(f"/proc/{pid}/fd")
        if os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    )
    copy = libc.syscall(438, pidfd, youngest, 0)  # pidfd_getfd
    os.close(pidfd)
    return socket.socket(fileno=copy)


class TestLog:
    def test_the_body_of_an_encrypted_request_never_stands_in_the_log(self, machine):
        machine.configure(loncLogLevel="debug")

        def script(peer):
            """Sends an unexpected line that contains the received one."""
            peer.greet()
            peer.hear()
            peer.say(b"enc:5:topsecret", b"topsecret")

        with ScriptedLond(machine.address(1), machine.port, script):
            machine.run()
            assert machine.ask(b"encrypt:auth:topsecret") == b"con_lost"
            with machine.connect() as client:
                client.sendall(b"encrypt:auth:topsecret\n")
                read_line(client)
            machine.stop()
        assert "lond sent an enc: line" in machine.log()
        assert "topsecret" not in machine.log()

    @pytest.mark.parametrize("level", ["debug", "info"])
    def test_requests_are_told_at_debug_alone(self, machine, level):
        machine.configure(loncLogLevel=level)
        machine.start_lond("l1")
        machine.run()
        machine.ask(b"echo:\xffone" + b"x" * 1000)
        machine.ask(b"encrypt:echo:two")
        machine.stop()
        logged = re.findall(r"DEBUG \d+ l1: request: (.*)", machine.log())
        assert logged == ([rf"echo:\xffone{'x' * 191}…"] if level == "debug" else [])

    def test_every_line_has_its_form(self, three):
        os.kill(three.children()["l1"], signal.SIGKILL)
        three.ask(b"ping", "l1")
        three.stop()
        form = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d [A-Z]+ \d+ (parent|l[123]): \S.*"
        for line in three.log().splitlines():
            assert re.fullmatch(form, line), line
        assert f"parent: lonc {lonc.__version__} starts, 3 hosts" in three.log()


class TestLoad:
    def test_ten_thousand_echoes_from_fifty_clients_over_three_londs(self, three):
        paths = [three.sockets / host for host in ("l1", "l2", "l3")]
        load = Load(paths, clients=50, requests=200).run()
        assert (load.done, load.refused, load.lost) == (10_000, [], [])
        for host in ("l1", "l2", "l3"):
            assert int(three.ask(b"connections", host).split(b":")[1]) <= 5

    @pytest.mark.parametrize("anew", [False, True])
    def test_a_child_killed_under_load_costs_only_its_own_hosts_requests(self, three, anew):
        paths = [three.sockets / host for host in ("l1", "l2", "l3")]
        killed = []
        begun = time.monotonic()

        def kill():
            child = three.children().get("l2")
            if (
                len(killed) < 3
                and child
                and child not in killed
                and time.monotonic() - begun > len(killed) * 0.2
            ):
                os.kill(child, signal.SIGKILL)
                killed.append(child)

        load = Load(paths, clients=51, requests=150, anew=0 if anew else None).run(meanwhile=kill)
        assert killed
        assert load.refused == []
        assert set(load.lost) <= {"l2"}
        assert load.done + len(load.lost) == 51 * 150
