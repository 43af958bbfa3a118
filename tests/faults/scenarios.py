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


def strangers(machine, requests, seed):
    """Late, split and merged replies, resets and all the others, and clients that leave."""
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
        "strangers and doubles": 0,  # or we would not be here
        "longest wait, s (timeouts %.1f)" % (queue + request): round(load.longest_wait, 2),
        "seconds": round(seconds, 1),
    }


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def dead_host(machine, rounds, seed=1):
    """Nobody listens at its address, and then somebody does."""
    machine.configure(loncRetryMaxDelay=2)
    machine.run()
    rng = random.Random(seed)
    waits, backs = [], []
    for _ in range(rounds):
        client = machine.connect()
        until = time.monotonic() + 1.0 + rng.random() * 2
        while time.monotonic() < until:
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
            backs.append(time.monotonic() - begun)
            assert lond.accepted == 1
        while machine.ask(b"ping") != b"con_lost":
            pass
    # A request of a dead host is answered at once: it does not wait for the next attempt, up to 2 s.
    assert percentile(waits, 0.5) < 0.5
    assert max(backs) < 2 + SLACK
    return {
        "answers of a dead host": len(waits),
        "p99, ms": round(1000 * percentile(waits, 0.99), 2),
        "longest time until served again, s": round(max(backs), 2),
        "rounds": rounds,
    }


# Delays before a dead child is replaced grow: too long for a test that kills one after the other.
AT_ONCE = program(preparations.restart_at_once)


class Ledger:
    """A lond that says of each request whether it was carried out: it is in `seen`, and whoever asked is
    told, or it is not. While it is not `open`, it takes none."""

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
    """A program that asks for what must not get lost; killed and started as one likes."""

    def __init__(self, machine):
        self._machine = machine
        self._notes = machine.directory / "notes"
        self._notes.touch()
        self._process = None

    def told(self):
        """Pairs of a number and what was told."""
        return [line.split(maxsplit=1) for line in self._notes.read_text().splitlines()]

    def start(self):
        """The one that was under way when the last process was killed is left out: who knows."""
        told = self.told()
        first = str(int(told[-1][0]) + 2 if told else 0)
        command = [sys.executable, WRITER, self._machine.configuration, self._notes, first]
        self._process = subprocess.Popen(command)

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def must_be_in(self, seen):
        """How often what was told; all that was promised or done must be there."""
        told = self.told()
        answers = Counter(answer for _, answer in told)
        assert set(answers) <= {"con_delayed", "ok"}, answers
        lost = {b"put:" + number.encode() for number, _ in told} - set(seen)
        assert lost == set()
        return dict(answers)


def left_in(directory):
    """What waits there to be carried out."""
    return [name for name in os.listdir(directory) if not name.startswith(".") and name != "bad"]


def kills(machine, count, seed):
    """Clients, children and the parent are killed at random moments while things are to be saved and
    carried out."""
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
                whom = rng.choice(["client", "child", "parent"])
                if whom == "client":
                    writer.kill()
                    writer.start()
                elif whom == "parent":
                    machine.lonc.kill()
                    machine.lonc.wait()
                    machine.run(program=AT_ONCE)
                elif (child := machine.children().get("l1")) is not None:
                    os.kill(child, signal.SIGKILL)
                else:
                    continue
                killed[whom] += 1
        finally:
            writer.kill()
        ledger.open = True
        eventually(lambda: left_in(delayed) == [], 60)
        machine.stop()
    told = writer.must_be_in(ledger.seen)
    times = Counter(ledger.seen)
    assert not (delayed / "bad").exists()
    doubles = times.total() - len(times)
    assert doubles <= killed.total()
    return {
        "kills": dict(killed),
        "told": told,
        "told and then lost": 0,  # or we would not be here
        "carried out twice": doubles,
        "most times that one was": max(times.values()),
    }


def files(machine, count):
    """So many delayed transactions as another lonnet has written them, and clients meanwhile."""
    machine.hosts("l1")
    delayed = machine.sockets / "delayed"
    machine.configure(loncDelayedInterval=0.2, loncRetryDelay=0.1, loncRetryMaxDelay=0.2)
    machine.run()
    order = list(range(count))
    random.Random(count).shuffle(order)  # of writing; they are to be carried out by their names
    for number in order:
        name = f"{1_000_000_000 + number // 50}.{number % 50}.77.put.l1"
        (delayed / name).write_bytes(b"put:%d\n" % number)
    ledger = Ledger()
    waits = []
    with ScriptedLond(machine.address(1), machine.port, ledger.script):
        eventually(lambda: machine.ask(b"live") == b"ok")
        begun = time.monotonic()
        client = machine.connect()
        while left_in(delayed):
            assert time.monotonic() - begun < 30 + count / 50
            asked = time.monotonic()
            client.sendall(b"live\n")
            assert read_line(client) == b"ok"
            waits.append(time.monotonic() - asked)
            time.sleep(0.002)
        seconds = time.monotonic() - begun
        machine.stop()
    carried_out = [line for line in ledger.seen if line != b"live"]
    assert carried_out == [b"put:%d" % number for number in range(count)]
    records = machine.pid_file.with_name("lonnet.perm.log").read_text().splitlines()
    assert len(records) == count
    return {
        "files": count,
        "out of order, lost, twice": 0,  # or we would not be here
        "seconds": round(seconds, 1),
        "live requests meanwhile": len(waits),
        "their latency p50, p99, max, ms": [
            round(1000 * percentile(waits, share), 1) for share in (0.5, 0.99, 1)
        ],
    }


def connects(machine, seconds):
    """The children are killed every 200 ms."""
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
            except BlockingIOError:  # the backlog is full, with all who came and went
                full += 1
        time.sleep(0.001)
    assert killed > 3 * seconds
    assert connected > 0
    return {"rounds of kills": killed, "connects": connected, "backlog full": full, "refused": 0}


def crash_loop(machine, seconds, most):
    """For so long a child dies as soon as it runs; then the cause goes away."""
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
    gone = time.monotonic()
    announced = float(re.findall(r"replaced in ([0-9.]+) s", machine.log())[-1])
    waiting = machine.connect(timeout=announced + SLACK)
    waiting.sendall(b"ping\n")
    assert read_line(waiting) == b"l1"
    back = time.monotonic() - gone
    assert lasted > 2 * seconds or 1 < forked <= most
    return {
        "seconds of dying at once": seconds,
        "forks": forked,
        "delay announced, s": announced,
        "served by itself after, s": round(back, 1),
    }


def nobody_in(session):
    """Whether all processes of that session are dead."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                return False
    return True


# About as many as starting and reloading three hosts take.
STEPS = {"starting": 250, "reloading": 600}


def orphans(machine, runs, seed):
    """The parent is killed at any step of starting or reloading, or at rest; children may be stopped."""
    rng = random.Random(seed)
    machine.hosts("l1", "l2", "l3")
    order = machine.directory / "steps"
    killed, longest = Counter(), 0.0
    for _ in range(runs):
        when = rng.choice(["starting", "reloading", "at rest"])
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
        deadline = time.monotonic() + (0 if when == "at rest" else 0.5)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        killed[when if process.poll() is not None else "at rest"] += 1
        process.kill()
        process.wait()
        begun = time.monotonic()
        eventually(partial(nobody_in, process.pid))
        longest = max(longest, time.monotonic() - begun)
    return {
        "kill -9 of the parent": dict(killed),
        "left": 0,  # or we would not be here
        "longest time until nothing was left, s": round(longest, 2),
    }


def updates(machine, count):
    """USR2, each time with another table, under load for the hosts that stay as they are."""
    machine.hosts("l1", "l2")
    both = machine.table.read_text()
    with (
        ScriptedLond(machine.address(1), machine.port, echoing) as first,
        ScriptedLond(machine.address(2), machine.port, echoing) as second,
    ):
        machine.run()
        more = f"l3:dom:library:l3.example.org:{machine.address(3)}\n"
        paths = [machine.sockets / host for host in ("l1", "l2")]
        # As many connections as there will be.
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
        "failed, replaced, leaked": [0, 0, 0],  # or we would not be here
    }


def files_of(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def hups(machine, count):
    """HUP under load, every second time with a faulty table."""
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
    return {"HUP, half of them in vain": count, "requests meanwhile": load.done, "failed": 0}


def endless(machine, clients):
    """So many programs that send bytes for ever, and no newline."""
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
            except OSError:  # it was let go
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
        "others meanwhile, longest, ms": round(1000 * max(waits), 1),
    }
