"""`lonc start`, `stop`, `restart` and `status` as a whole: real processes, sockets and signals."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from setproctitle import setproctitle
from support import preparations
from support.holding import held_elsewhere
from support.machine import (
    AS_NOBODY,
    LONC,
    asked,
    children_of,
    eventually,
    exists,
    holders,
    program,
    read_line,
    read_to_the_end,
    title,
    without_prefix,
)
from support.scripted_lond import ScriptedLond

from lonc.runtime.lock_file import LockFile
from lonc.spool import spool

HEADING = "HOST STATE FOR CONN CLIENTS WAIT OLDEST FLIGHT DONE FAIL P50 P99 DELAY"

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def three(machine):
    machine.hosts("l1", "l2", "l3")
    return machine


@contextlib.contextmanager
def slow_lond(machine, number=1):
    """Answers each request with itself, one that begins with `slow` when the event is set."""
    released = threading.Event()

    def script(peer):
        peer.greet()
        while (line := peer.hear()) is not None:
            if line.startswith(b"slow"):
                released.wait(60)
            peer.say(line)

    with ScriptedLond(machine.address(number), machine.port, script):
        try:
            yield released
        finally:
            released.set()


def in_flight(machine, count=1, host="l1"):
    eventually(lambda: machine.status(host)["connections"].get("ReceivingReply") == count)


def processes(machine):
    return [machine.lonc.pid, *children_of(machine.lonc.pid)]


def proc(pid, name):
    return Path(f"/proc/{pid}/{name}")


class TestStart:
    def test_it_returns_when_every_child_serves(self, three):
        said = three.start()
        assert said == f"lonc is started, pid {three.lonc.pid}\n"
        assert title(three.lonc.pid) == "lonc: parent, 3 hosts"
        assert set(three.children()) == {"l1", "l2", "l3"}
        for host in ("l1", "l2", "l3"):
            assert three.status(host)["host"] == host
        assert "parent: every child serves" in three.log()

    def test_a_second_start_says_so_and_changes_nothing(self, three):
        for host in ("l1", "l2", "l3"):  # otherwise failed connects would be logged
            three.start_lond(host)
        three.start()
        eventually(lambda: three.log().count(": ready: connected") == 3)
        eventually(lambda: "every child serves" in three.log())
        before = _files(three)
        done = three.command("start")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode() == f"lonc is running already, pid {three.lonc.pid}\n"
        assert _files(three) == before
        assert holders(three.lock_file) == [three.lonc.pid]

    def test_a_child_that_dies_at_once_is_told_with_its_last_words_and_nothing_is_left(self, three):
        dying = program(preparations.crash_when_connecting, "l2")
        done = three.command("start", program=dying)
        assert (done.returncode, done.stdout) == (1, b"")
        words = (
            r"lonc: child \d+ of l2 exited with status 1: ZeroDivisionError: division by zero \(.*\)\n"
        )
        assert re.fullmatch(words, done.stderr.decode())
        log = three.pid_file.with_name("lonc.log").read_text()
        daemon = int(re.search(r"ERROR (\d+) parent: cannot start: child ", log)[1])
        assert not exists(daemon)
        assert three.socket_files() == []
        assert not three.pid_file.exists()

    def test_a_child_that_never_says_ready_is_no_daemon_either(self, three):
        three.configure(loncDrainTimeout=1)
        hanging = program(preparations.hang_in_every_child)
        done = three.command("start", program=hanging)
        assert done.returncode == 1
        assert re.fullmatch(
            r"lonc: child \d+ of l[123] was killed: it was not ready in time\n", done.stderr.decode()
        )
        assert three.socket_files() == []

    def test_a_daemon_that_crashes_before_it_serves_is_told(self, three):
        crashing = program(preparations.crash_in_parent)
        done = three.command("start", program=crashing)
        assert done.returncode == 1
        assert b"lonc: ZeroDivisionError: division by zero (" in done.stderr
        log = three.pid_file.with_name("lonc.log").read_text()
        assert len(log.splitlines()) == 1

    def test_a_daemon_that_is_killed_before_it_serves_is_told(self, three):
        killed = program(preparations.kill_parent)
        done = three.command("start", program=killed)
        assert done.returncode == 1
        log = three.pid_file.with_name("lonc.log")
        assert done.stderr.decode() == f"lonc: the daemon ended without a report; see {log}\n"
        three.start()

    @needs_root
    def test_a_directory_that_it_may_not_use_is_a_sentence(self, public):
        done = public.command("start", program=AS_NOBODY)
        assert done.returncode == 1
        assert done.stderr.decode() == (
            f"lonc: cannot make {public.sockets} (lonSockDir): Permission denied\n"
        )
        public.sockets.mkdir(mode=0o750)
        os.chown(public.sockets, -1, 65534)
        public.pid_file.parent.mkdir(mode=0o777)
        public.pid_file.parent.chmod(0o777)
        done = public.command("start", program=AS_NOBODY)
        assert done.returncode == 1
        assert done.stderr.decode() == (
            f"lonc: cannot make {public.sockets}/delayed (lonSockDir): Permission denied\n"
        )
        spool.make_directory(public.sockets / "delayed")
        os.chown(public.sockets / "delayed", -1, 65534)
        done = public.command("start", program=AS_NOBODY)
        assert done.returncode == 1
        assert done.stderr.decode() == (
            f"lonc: cannot open {public.sockets}/.lonc~lock: Permission denied\n"
        )
        assert public.socket_files() == []
        public.start()  # root may

    def test_an_address_that_is_not_ours_is_a_sentence(self, machine):
        machine.configure(loncBindAddress="192.0.2.1")
        done = machine.command("start")
        assert done.returncode == 1
        why = "cannot connect from 192.0.2.1 (loncBindAddress): Cannot assign requested address"
        assert done.stderr.decode() == f"lonc: {why}\n"
        assert machine.socket_files() == []

    def test_who_ignores_the_end_of_children_can_start_it_too(self, machine):
        machine.start(preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
        child = machine.children()["l1"]
        os.kill(child, signal.SIGKILL)
        eventually(lambda: machine.status()["pid"] != child)

    def test_a_log_that_cannot_be_written_is_a_sentence(self, machine):
        log = machine.pid_file.with_name("lonc.log")
        log.mkdir(parents=True)
        done = machine.command("start")
        assert done.returncode == 1
        assert done.stderr.decode() == f"lonc: cannot write {log}: Is a directory\n"

    def test_a_daemon_goes_on_though_its_starter_was_ended_meanwhile(self, machine):
        machine.hosts(*[f"h{number}" for number in range(40)])
        starting = subprocess.Popen([*LONC, "-c", machine.configuration, "start"])
        eventually(lambda: machine.sockets.exists() and len(machine.socket_files()) > 5)
        starting.kill()
        starting.wait()
        assert machine.command("status").returncode == 0
        machine.start()
        assert len(machine.children()) == 40


def _files(machine):
    """Paths, attributes and content of all files of the daemon, to notice any change."""
    found = []
    for directory in (machine.sockets, machine.pid_file.parent):
        for path in directory.iterdir():
            state = path.lstat()
            found.append((path.name, state.st_ino, state.st_mtime_ns, state.st_size))
    return sorted(found)


class TestOneInstance:
    @pytest.mark.parametrize("starts", [2, 4])
    def test_of_several_starts_at_once_one_starts_and_all_are_content(self, machine, starts, rounds):
        machine.hosts("l1", "l2")
        command = [*LONC, "-c", str(machine.configuration)]
        for round_ in range(1, rounds + 1):
            all_ = [
                subprocess.Popen([*command, "start"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                for _ in range(starts)
            ]
            asking = subprocess.Popen([*command, "status"], stdout=subprocess.PIPE)
            said = [each.communicate(timeout=30) for each in all_]
            assert [each.returncode for each in all_] == [0] * starts, said
            asking.communicate(timeout=30)
            assert asking.returncode in (0, 3)
            pid = int(machine.pid_file.read_text())
            started = f"lonc is started, pid {pid}\n".encode()
            running = f"lonc is running already, pid {pid}\n".encode()
            assert sorted(out for out, _ in said) == sorted([started] + [running] * (starts - 1))
            assert not any(err for _, err in said)
            assert holders(machine.lock_file) == holders(machine.sockets / ".lonc~lock") == [pid]
            log = machine.pid_file.with_name("lonc.log").read_text()
            assert log.count(" starts, ") == log.count("every child serves") == round_
            assert machine.command("stop").returncode == 0
            assert not exists(pid)

    def test_the_pid_file_of_a_dead_daemon(self, three):
        three.start()
        before = children_of(three.lonc.pid)
        three.lonc.kill()
        three.lonc.wait()
        eventually(lambda: not any(map(exists, before)))
        done = three.command("status")
        assert (done.returncode, done.stderr) == (1, b"")
        assert done.stdout.decode() == f"lonc is not running; it left {three.pid_file} behind\n"
        assert three.command("reload").returncode == 7
        stranger = three.sockets / "stranger"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(stranger))
            listening.listen()
            assert three.command("stop").stdout == b"lonc is not running\n"
        assert three.socket_files() == ["stranger"]  # its leftovers are removed, and nothing else
        assert not three.pid_file.exists()
        assert three.command("status").returncode == 3
        three.start()
        assert three.command("status").returncode == 0

    def test_after_a_dead_daemon_a_start_needs_no_stop(self, three):
        three.start()
        three.lonc.kill()
        three.lonc.wait()
        three.start()
        assert three.ask(b"lonc:status").startswith(b"{")

    def test_a_pid_that_another_process_has_by_now_does_not_prevent_a_start(self, three):
        stranger = subprocess.Popen(["sleep", "60"])
        try:
            three.pid_file.parent.mkdir()
            three.pid_file.write_text(f"{stranger.pid}\n")
            os.utime(three.pid_file, (0, time.time() - 10))
            assert three.command("status").returncode == 3
            assert three.command("stop").returncode == 0
            assert three.command("reload").returncode == 7
            three.start()
            assert three.command("stop").returncode == 0
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()

    def test_the_lock_is_held_by_another_program(self, three):
        """Only the daemon's user can do that. It is named, and `stop` ends it."""
        three.pid_file.parent.mkdir()
        with held_elsewhere(lambda: LockFile(three.lock_file)) as stranger:
            impatient = program(preparations.ask_impatiently)
            why = f"lonc, pid {stranger}, has not finished its start\n"
            done = three.command("status", program=impatient)
            assert done.returncode == 4
            assert done.stderr.decode() == f"lonc: cannot tell whether it runs: {why}"
            done = three.command("start", program=impatient)
            assert done.returncode == 1
            where = three.lock_file.parent
            assert done.stderr.decode() == f"lonc: {where} is in use by another lonc, pid {stranger}\n"
            assert exists(stranger)
            done = three.command("stop", program=impatient)
            assert (done.returncode, done.stderr) == (0, b"")
        assert three.command("status").returncode == 3

    @pytest.mark.parametrize("content", ["", "\n", "nonsense", "99999999999999999999", "-1", "0"])
    def test_a_pid_file_with_nothing_sensible_in_it(self, three, content):
        three.pid_file.parent.mkdir()
        three.pid_file.write_text(content)
        assert three.command("status").returncode == 3
        assert three.command("stop").returncode == 0
        three.start()
        assert three.pid_file.read_text() == f"{three.lonc.pid}\n"

    def test_a_pid_file_that_was_removed_while_it_runs(self, three):
        three.start()
        three.pid_file.unlink()
        pid = three.lonc.pid
        assert three.command("start").stdout.decode() == f"lonc is running already, pid {pid}\n"
        assert not three.pid_file.exists()
        done = three.command("status")
        assert (done.returncode, f"pid {pid}," in done.stdout.decode()) == (0, True)
        assert three.command("reload").returncode == 0
        assert three.command("stop").stdout == b"lonc is stopped\n"
        assert not exists(pid)
        assert three.socket_files() == []

    @pytest.mark.parametrize("kind", ["empty", "another pid", "fifo"])
    def test_a_pid_file_that_was_replaced_while_it_runs(self, three, kind):
        three.start()
        pid = three.lonc.pid
        three.pid_file.unlink()
        if kind == "fifo":
            os.mkfifo(three.pid_file)
        else:
            three.pid_file.write_text("" if kind == "empty" else f"{os.getpid()}\n")
        assert three.command("start").stdout.decode() == f"lonc is running already, pid {pid}\n"
        done = three.command("status")
        assert (done.returncode, f"pid {pid}," in done.stdout.decode()) == (0, True)
        assert three.command("reload").returncode == 0
        assert three.command("stop").stdout == b"lonc is stopped\n"
        assert not exists(pid)

    @pytest.mark.parametrize("content", ["", "nonsense", "{stranger}"])
    def test_a_pid_file_that_was_edited_while_it_runs(self, three, content):
        """Also if it is the pid of the parent of another lonc."""
        titled = "import setproctitle, time; setproctitle.setproctitle('lonc: parent, 2 hosts');"
        stranger = subprocess.Popen(
            [sys.executable, "-c", titled + "print(flush=True); time.sleep(60)"], stdout=subprocess.PIPE
        )
        try:
            stranger.stdout.readline()
            three.start()
            pid = three.lonc.pid
            three.pid_file.write_text(content.format(stranger=stranger.pid))
            impatient = program(preparations.ask_impatiently)
            if content:
                done = three.command("status", program=impatient)
                assert (done.returncode, f"pid {pid}," in done.stdout.decode()) == (0, True)
            assert three.command("stop", program=impatient).stdout == b"lonc is stopped\n"
            assert not exists(pid)
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()
            stranger.stdout.close()

    def test_without_lock_and_control_socket_nobody_can_tell(self, three):
        three.start()
        logs = three.pid_file.parent
        logs.rename(logs.with_name("moved"))
        done = three.command("status")
        assert done.returncode == 4
        why = f"pid {three.lonc.pid} uses {three.sockets}, and is not the lonc of {logs.parent}"
        assert done.stderr.decode() == f"lonc: cannot tell whether it runs: {why}\n"
        assert three.command("stop").stderr.decode() == f"lonc: {why}\n"
        done = three.command("start")
        assert done.returncode == 1
        assert (
            done.stderr.decode()
            == f"lonc: {three.sockets} is in use by another lonc, pid {three.lonc.pid}\n"
        )

    def test_a_directory_in_the_place_of_the_lock(self, three):
        three.lock_file.mkdir(parents=True)
        done = three.command("start")
        assert done.returncode == 1
        assert done.stderr.decode() == f"lonc: cannot open {three.lock_file}: Is a directory\n"
        for command in ("status", "stop"):
            done = three.command(command)
            assert done.returncode == (4 if command == "status" else 1)
            assert f"cannot read {three.lock_file}: Is a directory" in done.stderr.decode()

    def test_a_directory_in_the_place_of_the_pid_file(self, three):
        three.pid_file.mkdir(parents=True)
        done = three.command("start")
        assert done.returncode == 1
        assert done.stderr.decode() == f"lonc: cannot write {three.pid_file}: Is a directory\n"

    def test_another_configuration_over_the_same_sockets_is_refused(self, three, tmp_path):
        three.start()
        other = tmp_path / "other.conf"
        (tmp_path / "other").mkdir()
        other.write_text(three.configuration.read_text() + f"PerlSetVar lonDaemons {tmp_path}/other\n")
        done = subprocess.run([*LONC, "-c", other, "start"], capture_output=True, timeout=20)
        assert done.returncode == 1
        assert (
            done.stderr.decode()
            == f"lonc: {three.sockets} is in use by another lonc, pid {three.lonc.pid}\n"
        )
        assert subprocess.run([*LONC, "-c", other, "status"], capture_output=True).returncode == 4
        assert three.command("status").returncode == 0

    def test_another_configuration_over_the_same_logs_is_refused(self, three, tmp_path):
        three.start()
        other = tmp_path / "other.conf"
        other.write_text(three.configuration.read_text() + f"PerlSetVar lonSockDir {tmp_path}/other\n")
        done = subprocess.run([*LONC, "-c", other, "start"], capture_output=True, timeout=20)
        assert done.returncode == 1
        assert (
            done.stderr.decode()
            == f"lonc: {three.lock_file.parent} is in use by another lonc, pid {three.lonc.pid}\n"
        )
        assert set(os.listdir(tmp_path / "other")) == {"delayed", ".lonc~lock"}


class TestAnotherLonc:
    """The original, in Perl: a process with a pid file and sockets, and none of our locks."""

    @pytest.mark.parametrize("known_by", ["pid file", "socket"])
    def test_a_start_is_refused_and_names_it(self, three, known_by):
        three.sockets.mkdir(mode=0o750)
        three.pid_file.parent.mkdir()

        def serve():
            setproctitle("lonc: parent, of another kind")
            listening = socket.socket(socket.AF_UNIX)
            if known_by == "pid file":
                three.pid_file.write_text(f"{os.getpid()}\n")
            else:
                listening.bind(str(three.sockets / "l2"))
                listening.listen()
            return listening

        with held_elsewhere(serve) as other:
            where = {
                "pid file": f"runs, and {three.pid_file} names it",
                "socket": f"accepts clients at {three.sockets}/l2",
            }[known_by]
            sentence = f"another lonc serves: process {other} (lonc: parent, of another kind) {where}"
            how = "stop it, or start with --take-over"
            for command in ("start", "run"):
                done = three.command(command)
                assert (done.returncode, without_prefix(done.stderr)) == (1, f"{sentence}; {how}\n")
            done = three.command("check")
            assert f"it will not start: {sentence}; {how}\n" in done.stdout.decode()
            done = three.command("restart")
            assert without_prefix(done.stderr) == f"{sentence}; {how}; nothing is stopped\n"
            done = three.command("status")
            assert done.returncode == 3
            assert done.stdout.decode() == f"lonc is not running\n{sentence}\n"
            assert exists(other)
            done = three.command("start", "--take-over")
            assert (done.returncode, done.stderr) == (0, b"")
            assert three.status("l2")["host"] == "l2"
            assert three.command("stop").returncode == 0
            assert exists(other)

    def test_a_restart_does_not_take_its_own_daemon_for_another(self, three):
        three.start()
        assert three.command("restart").returncode == 0
        assert three.command("stop").returncode == 0


class TestStop:
    def test_it_ends_all_and_is_content_if_there_is_nothing_to_end(self, three):
        three.start()
        all_ = processes(three)
        done = three.command("stop")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"lonc is stopped\n", b"")
        assert not any(map(exists, all_))
        assert three.socket_files() == []
        assert not three.pid_file.exists()
        assert not three.pid_file.with_name("lonc.ctl").exists()
        done = three.command("stop")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"lonc is not running\n", b"")
        assert three.command("status").returncode == 3

    def test_faults_in_the_files_do_not_make_it_unstoppable(self, three):
        three.start()
        three.configure(londPort="x", loncXy=1)
        three.table.write_text("nonsense\n")
        faults = [
            f"lonc: {three.configuration}:5: londPort: 'x' is not a whole number",
            f"lonc: {three.configuration}:6: there is no setting 'loncXy'",
        ]
        done = three.command("status")
        assert done.returncode == 0
        assert done.stderr.decode().splitlines() == faults
        done = three.command("stop")
        assert (done.returncode, done.stdout) == (0, b"lonc is stopped\n")
        assert done.stderr.decode().splitlines() == faults
        three.configure(lonDaemons="relative")
        assert three.command("stop").returncode == 6

    def test_draining_by_the_letter(self, three):
        """A client whose whole line was read gets its reply; half a line is not a request."""
        with slow_lond(three) as released:
            three.start()
            kept = three.connect()
            kept.sendall(b"ping\n")
            assert read_line(kept) == b"ping"
            half, closed, flying, ahead = (three.connect() for _ in range(4))
            half.sendall(b"half a li")
            closed.sendall(b"slow closed\n")
            closed.shutdown(socket.SHUT_WR)
            flying.sendall(b"slow flying\n")
            ahead.sendall(b"slow ahead\nsecond\nthi")
            in_flight(three, 3)
            stopping = subprocess.Popen(
                [*LONC, "-c", three.configuration, "stop"], stdout=subprocess.PIPE
            )
            eventually(lambda: three.socket_files() == [])
            assert kept.recv(1) == b""
            assert half.recv(1) == b""
            eventually(lambda: re.search(rb"^l1 +draining ", three.command("status").stdout, re.M))
            with pytest.raises(BrokenPipeError):
                flying.sendall(b"too late\n")
            assert three.command("status").stdout.startswith(b"lonc 0.1.0 is stopping, pid ")
            released.set()
            assert read_line(closed) == b"slow closed"
            assert read_line(flying) == b"slow flying"
            assert read_to_the_end(ahead) == b"slow ahead\nsecond\n"
            for client in (closed, flying):
                assert client.recv(1) == b""
            assert stopping.communicate(timeout=20)[0] == b"lonc is stopped\n"
            assert stopping.returncode == 0

    def test_several_stops_at_once_cut_nothing_short(self, three):
        with slow_lond(three) as released:
            three.start()
            client = three.connect()
            client.sendall(b"slow\n")
            in_flight(three)
            command = [*LONC, "-c", three.configuration, "stop"]
            stops = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(6)]
            eventually(lambda: three.socket_files() == [])
            eventually(lambda: asked(three, b"status").startswith(b'{"phase": "stopping"'))
            for _ in range(3):
                assert json.loads(asked(three, b"stop"))["text"] == "stopping"
            released.set()
            assert read_line(client) == b"slow"
            for stop in stops:
                assert stop.communicate(timeout=20)[0] in (
                    b"lonc is stopped\n",
                    b"lonc is not running\n",
                )
                assert stop.returncode == 0

    def test_the_daemons_own_drain_timeout_counts_not_that_of_a_file_edited_since(self, three):
        with slow_lond(three) as released:
            three.start()
            client = three.connect()
            client.sendall(b"slow\n")
            in_flight(three)
            three.configure(loncDrainTimeout=0)
            hasty = program(preparations.kill_after, 0)
            stopping = subprocess.Popen(
                [*hasty, "-c", three.configuration, "stop"], stdout=subprocess.PIPE
            )
            eventually(lambda: three.socket_files() == [])
            with pytest.raises(subprocess.TimeoutExpired):
                stopping.wait(0.5)  # a stop without draining would have ended
            released.set()
            assert read_line(client) == b"slow"
            assert stopping.communicate(timeout=20)[0] == b"lonc is stopped\n"

    def test_whoever_waits_for_a_reload_is_told_at_once_that_it_stops(self, three):
        with slow_lond(three):
            three.start()
            client = three.connect()
            client.sendall(b"slow\n")
            in_flight(three)
            three.configure(loncDrainTimeout=3)
            control = str(three.pid_file.with_name("lonc.ctl"))
            with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
                for asking in (one, other):
                    asking.settimeout(10)
                    asking.connect(control)
                os.kill(three.lonc.pid, signal.SIGSTOP)  # so that it sees all of them in one turn
                three.lonc.send_signal(signal.SIGHUP)
                for asking in (one, other):
                    asking.sendall(b"reload\n")
                os.kill(three.lonc.pid, signal.SIGCONT)
                three.lonc.terminate()
                answers = {json.loads(read_line(asking))["text"] for asking in (one, other)}
                assert answers <= {"lonc is stopping", "reloaded, 3 hosts"}
            three.lonc.kill()
            three.lonc.wait()
            # A child that was being forked has the parent's title and files until the kernel kills it.
            eventually(lambda: holders(three.lock_file) == [])

    def test_a_second_stop_waits_with_the_first_and_a_start_for_both(self, three):
        with slow_lond(three) as released:
            three.start()
            client = three.connect()
            client.sendall(b"slow\n")
            in_flight(three)
            command = [*LONC, "-c", three.configuration]
            stops = [subprocess.Popen([*command, "stop"], stdout=subprocess.PIPE)]
            eventually(lambda: b" is stopping" in three.command("status").stdout)
            stops.append(subprocess.Popen([*command, "stop"], stdout=subprocess.PIPE))
            starting = subprocess.Popen([*command, "start"], stdout=subprocess.PIPE)
            assert b" is stopping" in three.command("status").stdout
            assert starting.poll() is None
            released.set()
            assert read_line(client) == b"slow"
            for stop in stops:  # the second one may find no daemon
                assert stop.communicate(timeout=20)[0].startswith(b"lonc ")
                assert stop.returncode == 0
            assert starting.communicate(timeout=20)[0].startswith(b"lonc is started, pid ")
            three.start()  # it runs already; registers it for the end of the test

    def test_when_the_time_to_drain_is_up_what_remains_is_told_con_lost(self, three):
        three.configure(loncDrainTimeout=0.3)
        with slow_lond(three):
            three.start()
            client = three.connect()
            client.sendall(b"slow\n")
            in_flight(three)
            assert three.command("stop").stdout == b"lonc is stopped\n"
            assert read_line(client) == b"con_lost"
            assert " l1: loncDrainTimeout is over: con_lost for 1 requests" in three.log()

    def test_a_child_that_hangs_is_killed(self, three):
        three.configure(loncDrainTimeout=0.1)
        three.start(program=program(preparations.kill_after, 0.3))
        all_ = processes(three)
        hanging = three.children()["l2"]
        os.kill(hanging, signal.SIGSTOP)
        assert three.command("stop").stdout == b"lonc is stopped\n"
        assert not any(map(exists, all_))
        assert f"child {hanging} of l2 was killed: it did not drain in time" in three.log()
        assert not three.pid_file.exists()

    def test_a_parent_that_hangs_is_killed_and_its_files_are_cleared_away(self, three):
        three.configure(loncDrainTimeout=0.1)
        three.start()
        all_ = processes(three)
        three.lonc.send_signal(signal.SIGSTOP)
        impatient = program(preparations.ask_impatiently)
        done = three.command("status", program=impatient)
        assert done.returncode == 4
        assert done.stdout.decode() == f"lonc is running, pid {three.lonc.pid}\n"
        assert b"no answer at " in done.stderr
        done = three.command("start", program=impatient)
        assert done.returncode == 1
        why = f"lonc is running already, pid {three.lonc.pid}, and does not answer"
        assert done.stderr.decode() == f"lonc: {why}\n"
        done = three.command("stop", program=impatient)
        assert (done.returncode, done.stdout) == (0, b"lonc did not end in time, and was killed\n")
        eventually(lambda: not any(map(exists, all_)))
        assert three.socket_files() == []
        assert not three.pid_file.exists()
        assert sorted(os.listdir(three.pid_file.parent)) == ["lonc.lock", "lonc.log", "lonnet.perm.log"]

    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_term_and_int_alike_also_under_a_flood_of_signals(self, three, signum):
        three.start()
        all_ = processes(three)
        flood = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGPIPE]
        with contextlib.suppress(ProcessLookupError):
            for number in range(3000):
                three.lonc.send_signal(flood[number % len(flood)])
                if number == 1000:
                    three.lonc.send_signal(signum)
        three.lonc.wait()
        assert not any(map(exists, all_))
        assert three.socket_files() == []
        assert not three.pid_file.exists()
        assert three.log().splitlines()[-1].endswith("parent: stopped")

    def test_term_twice_ends_at_once(self, three):
        with slow_lond(three):
            three.start()
            client = three.connect()
            client.sendall(b"slow\n")
            in_flight(three)
            three.lonc.terminate()
            eventually(lambda: three.socket_files() == [])
            three.lonc.terminate()
            three.lonc.wait()
            with contextlib.suppress(ConnectionResetError):
                assert read_line(client) == b""

    def test_an_order_and_a_term_let_it_drain(self, three):
        with slow_lond(three) as released:
            three.start()
            client = three.connect()
            client.sendall(b"slow\n")
            in_flight(three)
            asked(three, b"stop")
            three.lonc.terminate()
            asked(three, b"stop")
            released.set()
            assert read_line(client) == b"slow"
            three.lonc.wait()

    def test_connections_that_ask_nothing_keep_nobody_from_asking(self, three):
        three.start()
        silent = [socket.socket(socket.AF_UNIX) for _ in range(100)]
        for each in silent:
            each.connect(str(three.pid_file.with_name("lonc.ctl")))
        silent[-1].sendall(b"stat")
        assert three.command("status").returncode == 0
        silent[-1].sendall(b"us\n")
        assert read_line(silent[-1]).startswith(b'{"phase": "running"')
        assert three.command("stop").stdout == b"lonc is stopped\n"
        assert "stopping: ordered" in three.log()
        for each in silent:
            each.close()

    def test_term_during_a_reload(self, three):
        three.hosts(*[f"h{number}" for number in range(40)])
        three.start()
        before = set(children_of(three.lonc.pid))
        three.lonc.send_signal(signal.SIGHUP)
        eventually(lambda: set(children_of(three.lonc.pid)) - before)
        all_ = before | set(children_of(three.lonc.pid))
        three.lonc.terminate()
        three.lonc.wait()
        assert not any(map(exists, all_))
        assert three.socket_files() == []
        assert "exited with status" not in three.log()

    def test_a_stop_while_it_starts_waits_and_then_ends_it(self, three):
        three.hosts(*[f"h{number}" for number in range(60)])
        command = [*LONC, "-c", three.configuration]
        starting = subprocess.Popen([*command, "start"], stdout=subprocess.PIPE)
        eventually(lambda: three.sockets.exists() and len(three.socket_files()) > 5)
        assert three.command("stop").stdout == b"lonc is stopped\n"
        assert starting.communicate(timeout=20)[0].startswith(b"lonc is started")
        assert three.socket_files() == []

    def test_a_term_while_it_starts_ends_it_and_the_start_says_so(self, three):
        three.hosts(*[f"h{number}" for number in range(60)])
        slowly = program(preparations.start_late, 0.3)
        command = [*slowly, "-c", three.configuration, "start"]
        starting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        (pid,) = eventually(lambda: holders(three.lock_file))
        os.kill(pid, signal.SIGTERM)
        out, err = starting.communicate(timeout=20)
        assert (starting.returncode, out, err) == (
            1,
            b"",
            b"lonc: it was stopped before it served\n",
        )
        assert three.socket_files() == []
        assert not three.pid_file.exists()

    @needs_root
    def test_who_may_not_is_told(self, public):
        public.start()
        for mode in (0o755, 0o700):
            for path in (public.sockets, public.pid_file.parent):
                path.chmod(mode)
            for command in ("stop", "status", "reload"):
                done = public.command(command, program=AS_NOBODY)
                assert done.returncode == 4
                why = f"lonc: cannot open {public.lock_file}: Permission denied\n"
                assert done.stderr.decode() == why
        assert public.command("status").returncode == 0


class TestRestart:
    def test_it_stops_and_starts(self, three):
        three.start()
        before = three.lonc.pid
        three.configure(lonSockDir=three.directory / "elsewhere")
        done = three.command("restart")
        assert three.command("status").returncode == 0
        three.start()  # it runs already; registers it for the end of the test
        assert done.stdout.decode() == f"lonc is stopped\nlonc is started, pid {three.lonc.pid}\n"
        assert three.lonc.pid != before
        assert three.socket_files() == []
        assert sorted(os.listdir(three.directory / "elsewhere")) == [
            ".lonc~lock",
            "delayed",
            "l1",
            "l2",
            "l3",
        ]

    def test_it_starts_what_does_not_run(self, three):
        assert three.start("restart").startswith("lonc is not running\nlonc is started, pid ")

    def test_faulty_files_stop_nothing(self, three):
        three.start()
        three.configure(londPort="x")
        three.table.write_text("nonsense\n")
        done = three.command("restart")
        assert (done.returncode, done.stdout) == (6, b"")
        assert len(done.stderr.splitlines()) == 2
        assert exists(three.lonc.pid)
        assert three.status()["host"] == "l1"


class TestStatus:
    def test_one_line_for_each_host(self, three):
        three.start_lond("l2")
        three.configure(loncRetryDelay=60)
        three.start()
        client = three.connect("l2")
        for _ in range(3):
            client.sendall(b"ping\n")
            assert read_line(client) == b"l2"
        three.ask(b"ping", "l3")
        done = three.command("status")
        assert (done.returncode, done.stderr) == (0, b"")
        first, heading, *rows = done.stdout.decode().splitlines()
        since = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"
        said = (
            rf"lonc 0\.1\.0 is running, pid {three.lonc.pid}, since {since}: 2 of 3 hosts are degraded"
        )
        assert re.fullmatch(said, first)
        assert " ".join(heading.split()) == HEADING
        for row, pattern in zip(
            rows,
            [
                r"l1       connecting +\S+ +0 +0 +0 +- +- +0 +0 +- +- +0",
                r"l3       DEAD +\S+ +0 +0 +0 +- +- +0 +1 +- +- +0",
                r"l2       ready +\S+ +1 +1 +0 +- +- +3 +0 +\S+ +\S+ +0",
                r"3 hosts +1 +1 +0 +- +- +3 +1 +0",
            ],
            strict=True,
        ):
            assert re.fullmatch(pattern, row), row

    def test_a_child_that_hangs_and_a_host_without_a_child(self, three):
        three.configure(loncRetryDelay=60)
        three.start(program=program(preparations.restart_after, 60))
        hanging = three.children()["l1"]
        os.kill(hanging, signal.SIGSTOP)
        for _ in range(2):  # the second time it is replaced after a minute only
            dead = eventually(lambda: three.children().get("l2"))
            os.kill(dead, signal.SIGKILL)
            eventually(lambda dead=dead: f"child {dead} of l2" in three.log())
        done = three.command("status")
        assert done.returncode == 0
        rows = [re.split("  +", line) for line in done.stdout.decode().splitlines()[2:]]
        assert [row[:2] for row in rows[:3]] == [
            ["l1", "not answering"],
            ["l2", "no child"],
            ["l3", "connecting"],
        ]
        os.kill(hanging, signal.SIGCONT)
        eventually(lambda: b"not answering" not in three.command("status").stdout)

    def test_an_empty_table(self, machine):
        machine.table.write_text("# nobody yet\n")
        machine.start("start --empty")
        done = machine.command("status")
        assert done.returncode == 0
        assert re.fullmatch(r"lonc .*: no hosts\nno requests are served\n", done.stdout.decode())
        assert title(machine.lonc.pid) == "lonc: parent, 0 hosts"

    def test_usr1_prints_it_into_a_file_and_into_the_log(self, three):
        three.start()
        hanging = three.children()["l1"]
        os.kill(hanging, signal.SIGSTOP)
        file = three.pid_file.with_name("lonc_status.txt")
        three.lonc.send_signal(signal.SIGUSR1)
        eventually(file.exists)
        assert (
            file.read_text().splitlines()[0].startswith(f"lonc 0.1.0 is running, pid {three.lonc.pid}")
        )
        assert [line.split()[0] for line in file.read_text().splitlines()[2:-1]] == ["l1", "l2", "l3"]
        assert "not answering" in file.read_text()
        eventually(lambda: three.log().count("parent: status of ") == 3)
        assert three.log().count("status of l1: not answering, connections -, ") == 1
        assert sorted(os.listdir(file.parent)) == [
            "lonc.ctl",
            "lonc.lock",
            "lonc.log",
            "lonc.pid",
            "lonc_status.txt",
            "lonnet.perm.log",
        ]
        os.kill(hanging, signal.SIGCONT)
        file.unlink()
        three.lonc.send_signal(signal.SIGUSR1)
        eventually(file.exists)
        assert "not answering" not in file.read_text()

    def test_a_status_that_cannot_be_written_is_said(self, three):
        three.start()
        file = three.pid_file.with_name("lonc_status.txt")
        file.mkdir()
        three.lonc.send_signal(signal.SIGUSR1)
        eventually(
            lambda: f"ERROR {three.lonc.pid} parent: cannot write {file}: Is a dir" in three.log()
        )


class TestSurroundings:
    def test_signals_that_mean_nothing_to_it_are_ignored(self, three):
        three.start()
        three.ask(b"ping")
        meaningless = signal.valid_signals() - {
            *(signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGTSTP),
            *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV),
            *(signal.SIGSYS, signal.SIGTRAP),
        }
        before = set(processes(three))
        for pid in before:
            for signum in meaningless - {signal.SIGHUP, signal.SIGUSR1}:
                os.kill(pid, signum)
        assert three.ask(b"lonc:status").startswith(b"{")
        assert set(processes(three)) == before
        assert three.command("status").returncode == 0
        assert "was killed by" not in three.log()

    def test_directory_mask_streams_environment_and_terminal(self, three):
        environment = {**os.environ, "SECRET": "do not keep this", "TZ": "Asia/Tokyo"}
        three.start(env=environment, umask=0)
        for pid in processes(three):
            assert os.readlink(proc(pid, "cwd")) == "/"
            status = proc(pid, "status").read_text()
            assert re.search(r"^Umask:\s+0027$", status, re.M)
            assert re.search(r"^SigBlk:\s+0+$", status, re.M)
            streams = [os.readlink(proc(pid, f"fd/{number}")) for number in (0, 1, 2)]
            assert streams == ["/dev/null", "/dev/null", str(three.log_file)]
            assert b"do not keep this" not in proc(pid, "environ").read_bytes()
            session, terminal = proc(pid, "stat").read_text().rpartition(") ")[2].split()[3:5]
            assert session != str(three.lonc.pid)  # a session leader could acquire a terminal
            assert terminal == "0"
            assert (
                "0 "
                in re.search(r"^Max core file size +(.*)$", proc(pid, "limits").read_text(), re.M)[1]
            )
        assert "+09:00 INFO" in three.log()
        assert oct(three.log_file.stat().st_mode) == "0o100640"
        assert oct(three.pid_file.with_name("lonc.ctl").stat().st_mode) == "0o140600"

    def test_it_outlives_the_terminal_that_started_it(self, three):
        controller, terminal = pty.openpty()
        shell = subprocess.Popen(
            ["sh"], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )  # fmt: skip
        os.close(terminal)
        command = " ".join([*LONC, "-c", str(three.configuration), "start"])
        os.write(controller, command.encode() + b"\n")
        said = b""
        while b"lonc is started, pid" not in said:
            said += os.read(controller, 10_000)
        os.close(controller)
        assert shell.wait(20) != 0  # SIGHUP
        three.start()  # it runs already
        assert three.command("status").returncode == 0
        assert len(three.children()) == 3

    @needs_root
    def test_a_directory_that_is_unmounted_is_no_trouble(self, three, tmp_path):
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
            pytest.skip("no rights to make a namespace of mounts")
        there = tmp_path / "mounted"
        there.mkdir()
        lonc = " ".join([*LONC, "-c", "loncapa.conf"])
        script = (
            f"mount -t tmpfs -o mode=755 none {there} && cp {three.configuration} {there} &&"
            f" cd {there} && {lonc} start && cd / && umount {there} && echo unmounted"
        )
        done = subprocess.run(["unshare", "--mount", "sh", "-ec", script], capture_output=True)
        assert done.stdout.endswith(b"unmounted\n"), done.stderr
        three.start()  # it runs already
        done = three.command("reload")
        assert done.returncode == 6  # its configuration file is gone; the daemon logs that and continues
        assert done.stderr.decode() == f"lonc: {there}/loncapa.conf: No such file or directory\n"
        assert three.command("status").returncode == 0


class TestLog:
    def test_it_follows_its_name_without_a_signal(self, three):
        three.start()
        log = three.log_file

        def logged(by):
            """A line of the parent, and one of a child."""
            three.lonc.send_signal(signal.SIGUSR1)
            client = three.connect("l3")
            client.sendall(b"ping\n")
            read_line(client)
            client.close()
            eventually(lambda: log.exists() and "status of l3" in log.read_text(), by)

        moved = log.with_name("lonc.log.1")
        log.rename(moved)
        logged(10)
        before = moved.read_text()
        log.unlink()
        logged(10)
        log.parent.rename(log.parent.with_name("logs.old"))
        log.parent.mkdir()
        logged(10)
        assert moved.exists() is False
        assert log.parent.with_name("logs.old").joinpath("lonc.log.1").read_text() == before
        child = three.children()["l3"]
        os.kill(child, signal.SIGKILL)
        eventually(lambda: re.search(r" \d+ l3: ", log.read_text()))  # a line of a child
        files = [os.readlink(fd) for fd in proc(three.lonc.pid, "fd").iterdir()]
        assert [file for file in files if "lonc.log" in file] == [str(log)]

    @pytest.mark.parametrize("trouble", ["a full disk", "no directory", "a fifo"])
    def test_a_log_that_cannot_be_written_neither_stops_nor_slows_it(self, three, trouble):
        three.start_lond("l1")
        if trouble == "a full disk":
            three.pid_file.parent.mkdir()
            three.pid_file.with_name("lonc.log").symlink_to("/dev/full")
            three.start()
        elif trouble == "no directory":
            three.start()
            shutil.rmtree(three.pid_file.parent)
        else:
            three.start()
            three.log_file.unlink()
            os.mkfifo(three.log_file)
        for _ in range(3):
            dead = eventually(lambda: three.children().get("l2"))
            os.kill(dead, signal.SIGKILL)
            eventually(lambda dead=dead: not exists(dead))
        for _ in range(20):
            three.lonc.send_signal(signal.SIGHUP)
            assert three.ask(b"ping") == b"l1"
        three.lonc.terminate()
        three.lonc.wait()
        assert three.socket_files() == []


class TestSystemd:
    def test_it_is_told_ready_reloading_and_stopping(self, three, tmp_path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / "notify"))
            manager.settimeout(10)
            three.run(env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")})
            assert manager.recv(1000) == b"READY=1"
            now = time.monotonic_ns() // 1000
            three.lonc.send_signal(signal.SIGHUP)
            reloading = manager.recv(1000).decode()
            stamp = re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=(\d+)", reloading)[1]
            assert now <= int(stamp) <= time.monotonic_ns() // 1000
            assert manager.recv(1000) == b"READY=1"
            three.table.write_text("nonsense\n")  # the reload is refused, but systemd must be notified
            three.lonc.send_signal(signal.SIGHUP)
            assert manager.recv(1000).startswith(b"RELOADING=1\n")
            assert manager.recv(1000) == b"READY=1"
            eventually(lambda: three.log().count("reload: ") == 1)
            three.lonc.send_signal(signal.SIGTERM)
            assert manager.recv(1000) == b"STOPPING=1"
            assert three.lonc.wait(20) == 0

    def test_abstract_addresses_and_nobody_there(self, machine):
        name = f"@lonc-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind("\0" + name[1:])
            manager.settimeout(10)
            machine.run(env={**os.environ, "NOTIFY_SOCKET": name})
            assert manager.recv(1000) == b"READY=1"
        assert machine.stop() == 0  # although STOPPING cannot be delivered
        for name in ("/nowhere/at/all", "nonsense", ""):
            machine.run(env={**os.environ, "NOTIFY_SOCKET": name})
            assert machine.stop() == 0
