"""A real child process; the test plays its parent, its clients and its lond."""

import os
import re
import signal
import socket
from pathlib import Path

import pytest
from support.machine import eventually, title
from support.scripted_lond import BUILD_KEY, Peer

from lonc.child import replay
from lonc.child.child import Child
from lonc.configuration import ON_DEMAND, Settings
from lonc.hosts import Host
from lonc.log import open_log
from lonc.monitoring.status import HostStatus
from lonc.runtime.process import close_all_except, die_with_parent, fork
from lonc.runtime.socket_file import SocketFile
from lonc.spool import spool

HOST = Host("l1", "dom", "library", "l1.example.org", "127.0.0.1", line=1)
PATIENCE = 20  # seconds; no result depends on it
INSECURE = (
    (b"init::", b"12345"),
    (b"12345", b"ok"),
    (b"version", b"2.11"),
    (b"sethost:l1", b"ok"),
    (b"ekey", BUILD_KEY),
)


class Process:
    """A forked child, and the parent's end of its socketpair."""

    def __init__(self, bench, predecessor=None, disabled=False, **changes):
        settings = Settings(**{**bench.settings, **changes})
        self._parents, theirs = socket.socketpair()
        parent_pid = os.getpid()

        def run():
            kept = [bench.file.listening, theirs, *([] if predecessor is None else [predecessor])]
            close_all_except(each.fileno() for each in kept)
            die_with_parent(parent_pid)
            open_log(settings.log_level, bench.log_file)
            replay.LOOK_AGAIN = bench.look_again
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
            Child(HOST, settings, bench.file.listening, theirs, predecessor, disabled).run()
            return 0

        self.pid = fork(run)
        theirs.close()
        self._parents.settimeout(PATIENCE)
        self._lines = self._parents.makefile("rb")
        self._status = None

    def says(self):
        return self._lines.readline()

    def order(self, line, *sockets):
        """Write to it as its parent; the sockets are closed here."""
        if not sockets:
            self._parents.sendall(line)
            return
        socket.send_fds(self._parents, [line], [each.fileno() for each in sockets])
        for each in sockets:
            each.close()

    def end_parent(self):
        self._lines.close()
        self._parents.close()

    def signal(self, number):
        os.kill(self.pid, number)

    @property
    def ended(self):
        """Whether it has ended; it is reaped then."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def exit_status(self):
        eventually(lambda: self.ended, PATIENCE)
        return os.waitstatus_to_exitcode(self._status)

    def close(self):
        if not self.ended:
            self.signal(signal.SIGKILL)
            self.exit_status()
        self.end_parent()


class Bench:
    def __init__(self, place):
        self.log_file = place / "log"
        self.lond = socket.create_server(("127.0.0.1", 0))
        self.lond.settimeout(PATIENCE)
        self.file = SocketFile(place / "l1", 0o600)
        self.settings = {
            "host_id": "a1",
            "sync_interval": 0.0,  # the londs here do not expect `ping`
            "socket_directory": place,
            "daemons": place,
            "lond_port": self.lond.getsockname()[1],
            "key_mode": "classic",
            "max_connections": 1,
        }
        (place / "logs").mkdir()
        self._path = str(place / "l1")
        self._open = []
        self.look_again = 0.001

    def fork(self, **changes):
        child = Process(self, **changes)
        self._open.append(child)
        return child

    def accept(self, dialogue=()):
        """lond's end of the next connection, after that dialogue, or the classic one."""
        connection, _ = self.lond.accept()
        peer = Peer(connection)
        connection.settimeout(PATIENCE)
        self._open.append(peer)
        if not dialogue:
            peer.greet()
        for line, answer in dialogue:
            assert peer.hear().startswith(line)
            peer.say(answer)
        return peer

    def connect(self, data=b""):
        """A client, which sends `data`."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(self._path)
        client.sendall(data)
        self._open.append(client)
        return client

    def serving(self, **changes):
        """A child that is ready, and lond's end of its connection."""
        child = self.fork(**changes)
        assert child.says() == b"ready\n"
        return child, self.accept()

    def log(self):
        return [line.split(": ", 1)[1] for line in self.log_file.read_text().splitlines()]

    def close(self):
        for each in reversed(self._open):
            each.close()
        self.file.close()
        self.lond.close()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_it_is_ready_before_it_is_connected_and_connects_without_a_request(bench):
    child = bench.fork()
    assert child.says() == b"ready\n"
    bench.accept()
    eventually(lambda: "Connection count: 1" in title(child.pid))


def test_a_key_mode_other_than_classic_is_logged_and_in_the_title(bench):
    child = bench.fork(key_mode="insecure")
    lond = bench.accept(INSECURE)
    client = bench.connect(b"ping\n")
    assert lond.hear() == b"ping"
    lond.say(b"pong")
    assert client.recv(100) == b"pong\n"
    assert title(child.pid) == "lonc: l1 Connection count: 1 Retries remaining: 2 (insecure)"
    assert "keys are exchanged in mode insecure (of insecure), with lond 2.11" in bench.log()


def test_a_request_goes_to_lond_and_its_reply_to_the_client(bench):
    child, lond = bench.serving()
    client = bench.connect(b"ping\n")
    assert lond.hear() == b"ping"
    lond.say(b"pong")
    assert client.recv(100) == b"pong\n"
    assert title(child.pid) == "lonc: l1 Connection count: 1 Retries remaining: 2"


class TestOrders:
    def test_a_ping_is_answered(self, bench):
        child, _ = bench.serving()
        child.order(b"ping\n")
        assert child.says() == b"pong\n"

    def test_a_status_is_the_report(self, bench):
        child, _ = bench.serving()
        child.order(b"status\n")
        word, _, report = child.says().partition(b" ")
        status = HostStatus.from_child(report)
        assert (word, status.host, status.pid) == (b"status", "l1", child.pid)

    def test_a_disabled_child_replies_con_lost_until_it_is_enabled(self, bench):
        child = bench.fork(disabled=True)
        client = bench.connect(b"one\n")
        assert client.recv(100) == b"con_lost\n"
        child.order(b"enable\n")
        lond = bench.accept()
        client.sendall(b"two\n")
        assert lond.hear() == b"two"
        lond.say(b"ok")
        assert client.recv(100) == b"ok\n"
        child.order(b"disable\n")
        child.order(b"status\n")
        while child.says().startswith(b"ready"):
            pass
        client.sendall(b"three\n")
        assert client.recv(100) == b"con_lost\n"

    def test_a_retry_connects_at_once(self, bench):
        bench.lond.close()
        child = bench.fork(connect_retries=1, retry_delay=1000.0, retry_max_delay=1000.0)
        eventually(lambda: title(child.pid) == "lonc: l1 >>> DEAD !!!! <<<")
        bench.lond = socket.create_server(("127.0.0.1", bench.settings["lond_port"]))
        bench.lond.settimeout(PATIENCE)
        child.order(b"retry\n")
        bench.accept()

    def test_a_look_finds_what_was_saved_meanwhile(self, bench):
        child, lond = bench.serving()
        for _ in range(100):  # until it has looked for the last time without an order
            child.order(b"ping\n")
            assert child.says() == b"pong\n"
        settings = Settings(**bench.settings)
        spool.save(settings, b"put:dom:user:x", "l1")
        child.order(b"look\n")
        assert lond.hear() == b"put:dom:user:x"
        lond.say(b"ok")
        eventually(lambda: spool.waiting(settings.delayed_directory) == ([], []))

    def test_when_lond_is_reachable_again_files_are_sent_without_an_order(self, bench):
        bench.look_again = 1000.0
        bench.lond.close()
        spool.save(Settings(**bench.settings), b"put:dom:user:x", "l1")
        child = bench.fork(connect_retries=1, retry_delay=0.05, retry_max_delay=0.05)
        eventually(lambda: "DEAD" in title(child.pid))
        bench.lond = socket.create_server(("127.0.0.1", bench.settings["lond_port"]))
        bench.lond.settimeout(PATIENCE)
        assert bench.accept().hear() == b"put:dom:user:x"

    def test_files_saved_before_its_start_are_in_the_report_of_a_disabled_child(self, bench):
        spool.save(Settings(**bench.settings), b"put:dom:user:x", "l1")
        child = bench.fork(disabled=True)
        assert child.says() == b"ready\n"
        child.order(b"status\n")
        assert HostStatus.from_child(child.says().partition(b" ")[2]).delayed == 1

    def test_an_unknown_order_ends_it(self, bench):
        child, _ = bench.serving()
        child.order(b"nonsense\n")
        assert child.exit_status() == 1

    def test_a_client_that_requests_a_new_child_is_passed_to_the_parent(self, bench):
        child, _ = bench.serving()
        client = bench.connect(b"close_connection_exit\n")
        assert client.recv(100) == b"ok\n"
        assert child.says() == b"replace\n"


class TestTheEnd:
    def test_at_sigterm_it_waits_for_the_reply_in_flight(self, bench):
        child, lond = bench.serving()
        idle, client = bench.connect(), bench.connect(b"one\n")
        assert lond.hear() == b"one"
        for _ in range(2):
            child.signal(signal.SIGTERM)
        assert idle.recv(100) == b""
        assert not child.ended
        lond.say(b"1")
        assert client.recv(100) == b"1\n"
        assert client.recv(100) == b""
        assert lond.hear() is None
        assert child.exit_status() == 0

    def test_at_sigterm_idle_connections_are_closed_at_once(self, bench):
        child, first = bench.serving(max_connections=2)
        clients = [bench.connect(b"one\n")]
        assert first.hear() == b"one"
        clients.append(bench.connect(b"two\n"))
        second = bench.accept()
        assert second.hear() == b"two"
        first.say(b"1")
        assert clients[0].recv(100) == b"1\n"
        child.signal(signal.SIGTERM)
        assert first.hear() is None
        second.say(b"2")
        assert clients[1].recv(100) == b"2\n"
        assert child.exit_status() == 0

    def test_after_the_drain_timeout_the_request_in_flight_is_lost(self, bench):
        child = bench.fork(disabled=True, drain_timeout=0.05)
        client = bench.connect(b"zero\n")
        assert client.recv(100) == b"con_lost\n"
        child.order(b"enable\n")
        lond = bench.accept()
        client.sendall(b"one\n")
        assert lond.hear() == b"one"
        child.signal(signal.SIGTERM)
        assert client.recv(100) == b"con_lost\n"
        assert child.exit_status() == 0
        assert "loncDrainTimeout is over: con_lost for 1 requests" in " ".join(bench.log())

    def test_at_sigterm_it_waits_for_a_delayed_transaction_in_flight(self, bench):
        settings = Settings(**bench.settings)
        spool.save(settings, b"put:dom:user:x", "l1")
        child, lond = bench.serving()
        assert lond.hear() == b"put:dom:user:x"
        child.signal(signal.SIGTERM)
        eventually(lambda: "(leaving)" in title(child.pid))
        lond.say(b"ok")
        assert child.exit_status() == 0
        assert spool.waiting(settings.delayed_directory) == ([], [])

    def test_other_signals_are_ignored(self, bench):
        child, _ = bench.serving()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE):
            child.signal(number)
        child.order(b"ping\n")
        assert child.says() == b"pong\n"
        blocked = re.search(r"^SigBlk:\t0*(.*)$", Path(f"/proc/{child.pid}/status").read_text(), re.M)
        assert blocked[1] == ""

    def test_when_its_parent_has_ended_it_ends_at_once(self, bench):
        child, lond = bench.serving()
        client = bench.connect(b"one\n")
        assert lond.hear() == b"one"
        child.end_parent()
        assert client.recv(100) == b""
        assert child.exit_status() == 0
        assert "the parent has gone" in " ".join(bench.log())

    def test_on_demand_it_leaves_when_it_has_been_idle(self, bench):
        assert bench.fork(children=ON_DEMAND, idle_timeout=0.05).exit_status() == 0

    def test_on_demand_it_stays_while_a_client_is_connected(self, bench):
        client = bench.connect(b"one\n")
        child, lond = bench.serving(children=ON_DEMAND, idle_timeout=0.05)
        assert lond.hear() == b"one"
        lond.say(b"1")
        assert client.recv(100) == b"1\n"
        assert lond.hear() is None  # the connection has reached the same timeout
        client.sendall(b"two\n")
        lond = bench.accept()
        assert lond.hear() == b"two"
        lond.say(b"2")
        assert client.recv(100) == b"2\n"
        client.close()
        assert child.exit_status() == 0

    def test_an_eager_child_stays_when_it_has_been_idle(self, bench):
        client = bench.connect(b"one\n")
        child, lond = bench.serving(idle_timeout=0.05)
        assert lond.hear() == b"one"
        client.close()
        lond.say(b"1")
        assert lond.hear() is None
        child.order(b"ping\n")
        assert child.says() == b"pong\n"


class TestHandingOver:
    def test_clients_are_passed_on_once_they_have_their_replies(self, bench):
        old, lond = bench.serving()
        idle, busy = bench.connect(b"one\n"), bench.connect()
        assert lond.hear() == b"one"
        lond.say(b"1")
        assert idle.recv(100) == b"1\n"
        busy.sendall(b"two\nthree\n")
        assert lond.hear() == b"two"
        to_new, theirs = socket.socketpair()
        new = bench.fork(predecessor=theirs)
        theirs.close()
        assert new.says() == b"ready\n"
        other = bench.accept()
        old.order(b"leave\n", to_new)
        assert old.says() == b"leaving\n"
        idle.sendall(b"four\n")
        assert other.hear() == b"four"
        other.say(b"4")
        assert idle.recv(100) == b"4\n"
        assert not old.ended
        lond.say(b"2")
        assert busy.recv(100) == b"2\n"
        assert old.exit_status() == 0
        assert other.hear() == b"three"
        other.say(b"3")
        assert busy.recv(100) == b"3\n"
        third = bench.connect(b"five\n")
        assert other.hear() == b"five"
        other.say(b"5")
        assert third.recv(100) == b"5\n"

    def test_a_new_child_accepts_no_client_before_the_old_one_leaves(self, bench):
        old, _ = bench.serving()
        to_new, theirs = socket.socketpair()
        new = bench.fork(predecessor=theirs)
        theirs.close()
        assert new.says() == b"ready\n"
        old.signal(signal.SIGSTOP)  # it accepts none either
        bench.connect(b"one\n")
        for _ in range(3):
            new.order(b"ping\n")
            assert new.says() == b"pong\n"
        new.order(b"status\n")
        assert HostStatus.from_child(new.says().partition(b" ")[2]).clients == 0
        to_new.close()

    def test_if_the_new_child_has_ended_the_old_one_serves_what_has_arrived(self, bench):
        child, lond = bench.serving()
        client = bench.connect(b"one\ntwo\n")
        assert lond.hear() == b"one"
        to_new, theirs = socket.socketpair()
        theirs.close()
        child.order(b"leave\n", to_new)
        assert child.says() == b"leaving\n"
        lond.say(b"1")
        assert lond.hear() == b"two"
        lond.say(b"2")
        assert client.makefile("rb").read() == b"1\n2\n"
        assert child.exit_status() == 0

    def test_a_child_that_drains_already_passes_no_client_on(self, bench):
        child, lond = bench.serving()
        client = bench.connect(b"one\n")
        assert lond.hear() == b"one"
        child.signal(signal.SIGTERM)
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        eventually(lambda: "(leaving)" in title(child.pid))
        child.order(b"leave\n", theirs)
        assert child.says() == b"leaving\n"
        assert ours.recv(100) == b""
        ours.close()
        lond.say(b"1")
        assert client.recv(100) == b"1\n"
        assert child.exit_status() == 0


class TestLog:
    def test_at_level_debug_each_request_is_logged_but_no_secret(self, bench):
        child, lond = bench.serving(log_level="debug")
        client = bench.connect()
        for request, heard in ((b"ping:" + b"x" * 300, b"ping:"), (b"encrypt:secret", b"enc:")):
            client.sendall(request + b"\n")
            assert lond.hear().startswith(heard)
            lond.say(b"ok")
            assert client.recv(100) == b"ok\n"
        child.signal(signal.SIGTERM)
        assert child.exit_status() == 0
        text = "\n".join(bench.log())
        assert f"request: ping:{'x' * 195}…\n" in text
        assert "secret" not in text
