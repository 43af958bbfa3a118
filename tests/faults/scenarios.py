"""One function for each kind of fault: it causes the fault, asserts what must hold, and returns figures.

The tests call the functions with small numbers, the soak with large ones. All raise AssertionError.
"""

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

from faults import sabotage
from faults.failing_lond import LondProcess, is_wrong_answer
from faults.sabotage import give
from support import preparations
from support.load import Load
from support.machine import eventually, peak_memory, program, read_line
from support.scripted_lond import ScriptedLond, echoing

SLACK = 10.0  # seconds that a loaded machine may add; what was forgotten is waited for for ever
WRITER = str(Path(__file__).with_name("writer.py"))


def wrong_replies(machine, requests, seed):
    """Londs with random faults (late, split, merged replies, resets …), and clients that disconnect."""
    hosts = ["l1", "l2", "l3"]
    queue, request = 2.0, 0.5
    machine.hosts(*hosts)
    machine.configure(
        loncConnectTimeout=0.5,
        loncHandshakeTimeout=0.5,
        loncRequestTimeout=request,
        loncQueueTimeout=queue,
        loncRetryDelay=0.1,
        loncRetryMaxDelay=0.2,
        loncConnectRetries=20,
    )
    londs = [LondProcess(machine.address(number), machine.port, seed + number) for number in range(1, 4)]
    with londs[0], londs[1], londs[2]:
        machine.run()
        clients = 90
        begun = time.monotonic()
        load = Load(
            [machine.sockets / host for host in hosts],
            clients=clients,
            requests=requests // clients + 1,
            longest=300,
            anew=80,
            seed=seed,
            echo=b"",
            leaving=0.01,
            tolerated=is_wrong_answer,
        ).run(seconds=requests / 200 + 30)
        seconds = time.monotonic() - begun
    assert load.refused == []
    assert load.longest_wait < queue + request + SLACK
    return {
        "requests": load.serial,
        "answered by lond": load.done,
        "con_lost or closed": len(load.lost),
        "not waited for": load.left_alone,
        "wrong and second replies": 0,  # asserted by Load
        "longest wait, s (timeouts %.1f)" % (queue + request): round(load.longest_wait, 2),
        "seconds": round(seconds, 1),
    }


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def dead_host(machine, rounds, seed=1):
    """The lond of a host is down, then up, in turn."""
    machine.configure(loncRetryMaxDelay=2)
    machine.run()
    rng = random.Random(seed)
    waits, recoveries = [], []
    for _ in range(rounds):
        client = machine.connect()
        until = time.monotonic() + 1.0 + rng.random() * 2
        answers = 0
        while time.monotonic() < until or answers < 200:
            # If requests waited for the next attempt, each up to 2 s, 200 of them would take minutes.
            assert time.monotonic() < until + 60
            answers += 1
            begun = time.monotonic()
            client.sendall(b"ping\n")
            assert read_line(client) == b"con_lost"
            waits.append(time.monotonic() - begun)
            time.sleep(0.001)
        with ScriptedLond(machine.address(1), machine.port, echoing) as lond:
            begun = time.monotonic()
            while True:
                client.sendall(b"ping\n")
                if read_line(client) == b"ping":
                    break
                time.sleep(0.002)
            recoveries.append(time.monotonic() - begun)
            assert lond.accepted == 1
        while machine.ask(b"ping") != b"con_lost":
            pass
    assert max(recoveries) < 2 + SLACK
    return {
        "answers of a dead host": len(waits),
        "p99, ms": round(1000 * percentile(waits, 0.99), 2),
        "longest time until served again, s": round(max(recoveries), 2),
        "rounds": rounds,
    }


# Restart delays grow, too long for tests that kill many children.
AT_ONCE = program(preparations.restart_at_once)


class Ledger:
    """A lond that records every request it executes in `seen`, in one step with the reply.

    While it is not `open`, it executes no requests and closes connections.
    """

    def __init__(self):
        self.open = True
        self.seen = []
        self._lock = threading.Lock()

    def script(self, peer):
        if not self.open:
            return
        peer.greet()
        while (line := peer.hear()) is not None:
            with self._lock:
                if not self.open:
                    return
                self.seen.append(line)
                peer.say(b"ok")

    def close(self):
        with self._lock:
            self.open = False


class Writer:
    """The process of writer.py, which can be killed and started again."""

    def __init__(self, machine):
        self._machine = machine
        self._notes = machine.directory / "notes"
        self._notes.touch()
        self._process = None

    def replies(self):
        """Pairs of a request's number and its reply."""
        return [line.split(maxsplit=1) for line in self._notes.read_text().splitlines()]

    def start(self):
        """Start a process; skip the last one's request in flight, as its result is unknown."""
        replies = self.replies()
        first = str(int(replies[-1][0]) + 2 if replies else 0)
        command = [sys.executable, WRITER, self._machine.configuration, self._notes, first]
        self._process = subprocess.Popen(command)

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def assert_executed(self, seen):
        """Assert that every request with a reply was executed; return how often each reply came."""
        replies = self.replies()
        counts = Counter(reply for _, reply in replies)
        assert set(counts) <= {"con_delayed", "ok"}, counts
        lost = {b"put:" + number.encode() for number, _ in replies} - set(seen)
        assert lost == set()
        return dict(counts)


def pending_in(directory):
    """Files of the spool that have not been sent yet, without rejected ones."""
    return [name for name in os.listdir(directory) if not name.startswith(".") and name != "bad"]


def kills(machine, count, seed):
    """Kill clients, children and the parent at random while delayed transactions are saved and sent."""
    rng = random.Random(seed)
    ledger = Ledger()
    writer = Writer(machine)
    delayed = machine.sockets / "delayed"
    machine.configure(loncDelayedInterval=0.2, loncRetryDelay=0.1, loncRetryMaxDelay=0.3)
    killed = Counter()

    with ScriptedLond(machine.address(1), machine.port, ledger.script):
        machine.run(program=AT_ONCE)
        writer.start()
        try:
            while killed.total() < count:
                time.sleep(rng.random() * 0.3)
                if rng.random() < 0.5:
                    ledger.close()
                else:
                    ledger.open = True
                time.sleep(rng.random() * 0.05)
                victim = rng.choice(["client", "child", "parent"])
                if victim == "client":
                    writer.kill()
                    writer.start()
                elif victim == "parent":
                    machine.lonc.kill()
                    machine.lonc.wait()
                    machine.run(program=AT_ONCE)
                elif (child := machine.children().get("l1")) is not None:
                    os.kill(child, signal.SIGKILL)
                else:
                    continue
                killed[victim] += 1
        finally:
            writer.kill()
        ledger.open = True
        eventually(lambda: pending_in(delayed) == [], 60)
        machine.stop()
    replies = writer.assert_executed(ledger.seen)
    times = Counter(ledger.seen)
    assert not (delayed / "bad").exists()
    doubles = times.total() - len(times)
    assert doubles <= killed.total()
    return {
        "kills": dict(killed),
        "replies": replies,
        "replied to and then lost": 0,  # asserted above
        "executed twice": doubles,
        "most executions of one": max(times.values()),
    }


def files(machine, count):
    """`count` delayed transactions written by another program, and clients meanwhile."""
    machine.hosts("l1")
    delayed = machine.sockets / "delayed"
    machine.configure(loncDelayedInterval=0.2, loncRetryDelay=0.1, loncRetryMaxDelay=0.2)
    machine.run()
    order = list(range(count))
    random.Random(count).shuffle(order)  # of writing; they must be sent in the order of their names
    for number in order:
        name = f"{1_000_000_000 + number // 50}.{number % 50}.77.put.l1"
        (delayed / name).write_bytes(b"put:%d\n" % number)
    ledger = Ledger()
    waits = []
    with ScriptedLond(machine.address(1), machine.port, ledger.script):
        eventually(lambda: machine.ask(b"live") == b"ok")
        begun = time.monotonic()
        client = machine.connect()
        while pending_in(delayed):
            assert time.monotonic() - begun < 30 + count / 50
            asked = time.monotonic()
            client.sendall(b"live\n")
            assert read_line(client) == b"ok"
            waits.append(time.monotonic() - asked)
            time.sleep(0.002)
        seconds = time.monotonic() - begun
        machine.stop()
    executed = [line for line in ledger.seen if line != b"live"]
    assert executed == [b"put:%d" % number for number in range(count)]
    records = machine.pid_file.with_name("lonnet.perm.log").read_text().splitlines()
    assert len(records) == count
    return {
        "files": count,
        "out of order, lost, twice": 0,  # asserted above
        "seconds": round(seconds, 1),
        "live requests meanwhile": len(waits),
        "their latency p50, p99, max, ms": [
            round(1000 * percentile(waits, share), 1) for share in (0.5, 0.99, 1)
        ],
    }


def connects(machine, seconds):
    """Clients connect while the children are killed every 200 ms."""
    machine.hosts("l1", "l2")
    machine.run(program=AT_ONCE)
    begun = time.monotonic()
    killed, connected, full = 0, 0, 0
    while time.monotonic() - begun < seconds:
        if time.monotonic() - begun > killed * 0.2:
            killed += 1
            for child in machine.children().values():
                os.kill(child, signal.SIGKILL)
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            try:
                client.connect(str(machine.sockets / "l1"))
                connected += 1
            except BlockingIOError:  # the backlog is full of closed connections
                full += 1
        time.sleep(0.001)
    assert killed > 3 * seconds
    assert connected > 0
    return {"rounds of kills": killed, "connects": connected, "backlog full": full, "refused": 0}


def crash_loop(machine, seconds, most):
    """A child dies as soon as it runs, for `seconds`; then the cause is removed."""
    machine.hosts("l1")
    cause = machine.directory / "cause"
    machine.start_lond("l1")
    machine.run_with(preparations.exit_at_start, None, cause)
    cause.touch()
    os.kill(machine.children()["l1"], signal.SIGKILL)
    begun = time.monotonic()

    def forks():
        return machine.log().count("of l1 exited with status 3")

    eventually(lambda: time.monotonic() - begun > seconds and forks() > 1, seconds + SLACK)
    lasted = time.monotonic() - begun
    forked = forks()
    cause.unlink()
    removed_at = time.monotonic()
    announced = float(re.findall(r"replaced in ([0-9.]+) s", machine.log())[-1])
    waiting = machine.connect(timeout=announced + SLACK)
    waiting.sendall(b"ping\n")
    assert read_line(waiting) == b"l1"
    back = time.monotonic() - removed_at
    assert lasted > 2 * seconds or 1 < forked <= most
    return {
        "seconds of crash loop": seconds,
        "forks": forked,
        "delay announced, s": announced,
        "served again after, s": round(back, 1),
    }


def session_is_empty(session):
    """Whether all processes of that session are dead."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                return False
    return True


# About as many calls as starting and reloading three hosts take.
STEPS = {"starting": 250, "reloading": 600}


def orphans(machine, runs, seed):
    """Kill the parent at any step of starting or reloading, or idle; children may be stopped."""
    rng = random.Random(seed)
    machine.hosts("l1", "l2", "l3")
    order = machine.directory / "steps"
    killed, longest = Counter(), 0.0
    for _ in range(runs):
        when = rng.choice(["starting", "reloading", "idle"])
        step = rng.randrange(1, STEPS.get(when, 2))
        place = sabotage.at_parent_start if when == "starting" else sabotage.at_reload
        order.unlink(missing_ok=True)
        if when == "starting":
            give(order, "kill", step)
        prepared = program(place, order)
        process = machine.run(wait=False, program=prepared, start_new_session=True)
        with contextlib.suppress(AssertionError):
            eventually(machine.serves)
        if when != "starting" and rng.random() < 0.5:
            os.kill(rng.choice(list(machine.children().values())), signal.SIGSTOP)
        if when == "reloading":
            give(order, "kill", step)
            process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + (0 if when == "idle" else 0.5)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        killed[when if process.poll() is not None else "idle"] += 1
        process.kill()
        process.wait()
        begun = time.monotonic()
        eventually(partial(session_is_empty, process.pid))
        longest = max(longest, time.monotonic() - begun)
    return {
        "kill -9 of the parent": dict(killed),
        "left": 0,  # asserted above
        "longest time until nothing was left, s": round(longest, 2),
    }


def updates(machine, count):
    """SIGUSR2, each time with another table, while the unchanged hosts are under load."""
    machine.hosts("l1", "l2")
    both = machine.table.read_text()
    with (
        ScriptedLond(machine.address(1), machine.port, echoing) as first,
        ScriptedLond(machine.address(2), machine.port, echoing) as second,
    ):
        machine.run()
        more = f"l3:dom:library:l3.example.org:{machine.address(3)}\n"
        paths = [machine.sockets / host for host in ("l1", "l2")]
        # Opens as many connections as the load below needs.
        Load(paths, clients=40, requests=50, echo=b"").run()
        before, connections = machine.children(), (first.accepted, second.accepted)
        descriptors = files_of(machine.lonc.pid)
        done = 0

        def update():
            nonlocal done
            if done < count and machine.log().count(" updated, ") == done and load.done > 100 * done:
                machine.table.write_text(both if done % 2 else both + more)
                machine.lonc.send_signal(signal.SIGUSR2)
                done += 1

        load = Load(paths, clients=40, requests=1, echo=b"", until=lambda: done == count)
        load.run(meanwhile=update, seconds=60 + count)
        eventually(lambda: machine.log().count(" updated, ") == count)
        after = {host: pid for host, pid in machine.children().items() if host != "l3"}
        assert after == before
        assert (first.accepted, second.accepted) == connections
        if count % 2 == 0:
            eventually(lambda: files_of(machine.lonc.pid) == descriptors)
        assert (load.refused, load.lost) == ([], [])
        machine.stop()
    return {
        "USR2": count,
        "requests meanwhile": load.done,
        "failed, replaced, leaked": [0, 0, 0],  # asserted above
    }


def files_of(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def hups(machine, count):
    """SIGHUP under load, every second time with a faulty table."""
    machine.hosts("l1", "l2")
    good = machine.table.read_text()
    for host in ("l1", "l2"):
        machine.start_lond(host)
    machine.run()
    paths = [machine.sockets / host for host in ("l1", "l2")]
    done = 0

    def ended():
        return machine.log().count(" reloaded, ") + machine.log().count(" reload: ")

    def reload():
        nonlocal done
        if done < count and ended() == done and load.done > 100 * done:
            machine.table.write_text("nonsense\n" if done % 2 else good)
            machine.lonc.send_signal(signal.SIGHUP)
            done += 1

    load = Load(paths, clients=40, requests=1, anew=20, until=lambda: done == count)
    load.run(meanwhile=reload, seconds=60 + count)
    eventually(lambda: ended() == count)
    assert machine.log().count(" reloaded, ") == (count + 1) // 2
    assert (load.refused, load.lost) == ([], [])
    return {
        "SIGHUP, half of them with a faulty table": count,
        "requests meanwhile": load.done,
        "failed": 0,
    }


def endless(machine, clients):
    """Clients that send bytes without end and without a newline."""
    most = 64 << 20
    machine.configure(loncMaxBuffered=most)
    machine.start_lond("l1")
    machine.run()
    child = machine.children()["l1"]
    greedy = [machine.connect(timeout=0) for _ in range(clients)]
    honest = machine.connect()
    data = b"x" * 65536
    sent, waits = 0, []
    while sent < 6 * most:
        for number, client in enumerate(greedy):
            try:
                sent += client.send(data)
            except BlockingIOError:
                pass
            except OSError:  # it was disconnected
                client.close()
                with contextlib.suppress(BlockingIOError):
                    greedy[number] = machine.connect(timeout=0)
        begun = time.monotonic()
        honest.sendall(b"ping\n")
        assert read_line(honest) == b"l1"
        waits.append(time.monotonic() - begun)
    assert len(waits) > 5
    peak = peak_memory(child)
    assert peak < most + (64 << 20)
    assert f"more than {most} bytes are held: the largest holder is disconnected" in machine.log()
    assert len(machine.log().splitlines()) < 20
    return {
        "clients": clients,
        "MiB sent": sent >> 20,
        "peak of the child, MiB (loncMaxBuffered 64)": peak >> 20,
        "longest wait of another client, ms": round(1000 * max(waits), 1),
    }
