"""The scenarios of the fault tests with large numbers; then a random mix of them until time is up.

python tests/faults/soak.py --minutes 30 [--seed N]

Prints the figures; exits with status 1 and a traceback if an assertion fails. The same seed gives the
same actions, though not at the same moments.
"""

import argparse
import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import scenarios
from faults.failing_lond import LondProcess, is_wrong_answer
from support.load import Load
from support.machine import LONC, Machine, asked, eventually, peak_memory
from support.scripted_lond import ScriptedLond

QUEUE, REQUEST = 1.5, 0.5


class Mix:
    """A daemon with five hosts, its clients, and random actions on it."""

    def __init__(self, machine, seed):
        self.machine = machine
        self.random = random.Random(seed)
        self.actions = Counter()
        self.longest_pause = 0.0  # seconds for which an action held up the clients
        self.ledger = scenarios.Ledger()
        self.writer = scenarios.Writer(machine)
        self.continue_at = []  # (time, pid) of stopped children
        self.londs = {}
        self.greedy = []
        self.disabled = False
        machine.hosts("l1", "l2", "l3", "l4", "l5")
        self.good = machine.table.read_text()
        self.keys = machine.directory / "keys"
        self.keys.write_text(f"first:{'0' * 64}\n")
        self.keys.chmod(0o600)
        self.resealing = None
        sealed = {"loncDelayedKeyFile": self.keys} if self.random.random() < 0.5 else {}
        machine.configure(
            **sealed,
            loncConnectTimeout=0.5,
            loncHandshakeTimeout=0.5,
            loncRequestTimeout=REQUEST,
            loncQueueTimeout=QUEUE,
            loncRetryDelay=0.1,
            loncRetryMaxDelay=0.3,
            loncDelayedInterval=0.3,
            loncIdleTimeout=2,
            loncMaxBuffered=16 << 20,
            loncDrainTimeout=5,
        )

    def run(self, seconds):
        machine, rng = self.machine, self.random
        over = time.monotonic() + seconds
        with contextlib.ExitStack() as stack:
            stack.enter_context(ScriptedLond(machine.address(1), machine.port, self.ledger.script))
            stack.callback(self.end)
            for number in (2, 3):
                self.start_lond(number)
            machine.start_lond("l5")
            machine.run(program=scenarios.AT_ONCE, start_new_session=True)
            self.writer.start()
            paths = [machine.sockets / host for host in ["l2", "l3", "l5"] * 10 + ["l4"]]
            load = Load(
                paths,
                clients=93,
                requests=1,
                longest=500,
                anew=70,
                seed=rng.random(),
                until=lambda: time.monotonic() > over,
                leaving=0.01,
                tolerated=is_wrong_answer,
            )
            next_action = time.monotonic()

            def meanwhile():
                nonlocal next_action
                begun = time.monotonic()
                if begun < next_action:
                    return
                self.continue_children(begun)
                action = rng.choices(self.ACTIONS, self.WEIGHTS)[0]
                self.actions[action.__name__] += 1
                action(self)
                self.longest_pause = max(self.longest_pause, time.monotonic() - begun)
                next_action = time.monotonic() + rng.expovariate(8)

            load.run(meanwhile, seconds + 60)
            self.continue_children(float("inf"))
            self.ledger.open = True
            machine.table.write_text(self.good)
            if self.disabled:
                asked(machine, b"enable l2")
            self.writer.kill()
            asked(machine, b"reload")
            eventually(lambda: scenarios.pending_in(machine.sockets / "delayed") == [], 60)
            eventually(lambda: set(machine.children()) == {"l1", "l2", "l3", "l4", "l5"}, 20)
            descriptors, memory = scenarios.files_of(machine.lonc.pid), peak_memory(machine.lonc.pid)
            session = machine.lonc.pid
            machine.stop()
            eventually(lambda: scenarios.session_is_empty(session), 1.0)
        limit = QUEUE + REQUEST + 1 + self.longest_pause + 0.5  # the last: children that were stopped
        assert load.refused == []
        assert load.longest_wait < limit, (load.longest_wait, limit)
        assert machine.crashes() == []
        replies = self.writer.assert_executed(self.ledger.seen)
        doubles = len(self.ledger.seen) - len(set(self.ledger.seen))
        kills = sum(
            self.actions[name] for name in ("kill_child", "kill_parent", "kill_writer", "reload")
        )
        assert doubles <= kills
        return {
            "seconds": round(seconds),
            "actions": dict(self.actions.most_common()),
            "requests": load.serial,
            "answered by lond": load.done,
            "con_lost or closed": len(load.lost),
            "not waited for": load.left_alone,
            "wrong and second replies, hangs, refused connects": 0,  # asserted above
            f"longest wait, s (limit {limit:.1f})": round(load.longest_wait, 2),
            "replies to critical requests": replies,
            "of them lost": 0,
            "executed twice": doubles,
            "descriptors of the parent": descriptors,
            "peak of the parent, MiB": memory >> 20,
            "lines in the log": machine.log().count("\n"),
        }

    def start_lond(self, number):
        address, port = self.machine.address(number), self.machine.port
        self.londs[number] = LondProcess(address, port, self.random.randrange(1 << 30)).__enter__()

    def end(self):
        self.writer.kill()
        if self.resealing is not None:
            self.resealing.wait()
        for lond in self.londs.values():
            lond.__exit__()

    def continue_children(self, now):
        for when, pid in self.continue_at:
            if when <= now:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        self.continue_at = [each for each in self.continue_at if each[0] > now]

    def child(self):
        children = self.machine.children()
        return self.random.choice(list(children.values())) if children else None

    def kill_child(self):
        if (child := self.child()) is not None:
            signum = self.random.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
            os.kill(child, signum)

    def stop_child(self):
        if (child := self.child()) is not None:
            os.kill(child, signal.SIGSTOP)
            self.continue_at.append((time.monotonic() + self.random.random() * 0.5, child))

    def kill_parent(self):
        session = self.machine.lonc.pid
        self.machine.lonc.kill()
        self.machine.lonc.wait()
        eventually(lambda: scenarios.session_is_empty(session), 1.0)
        self.disabled = False
        self.machine.table.write_text(self.good)
        self.machine.run(program=scenarios.AT_ONCE, start_new_session=True)

    def kill_writer(self):
        self.writer.kill()
        self.writer.start()

    def reload(self):
        self.machine.table.write_text(self.good)
        self.machine.lonc.send_signal(signal.SIGHUP)

    def reload_nonsense(self):
        self.machine.table.write_text("nonsense\n")
        self.machine.lonc.send_signal(signal.SIGHUP)

    def update(self):
        more = f"l6:dom:library:l6.example.org:{self.machine.address(6)}\n"
        self.machine.table.write_text(self.good + more * self.random.randint(0, 1))
        self.machine.lonc.send_signal(signal.SIGUSR2)

    def print_status(self):
        self.machine.lonc.send_signal(signal.SIGUSR1)

    def disable(self):
        self.disabled = not self.disabled
        with contextlib.suppress(ConnectionError):
            asked(self.machine, b"disable l2" if self.disabled else b"enable l2")

    def ask_status(self):
        assert asked(self.machine, b"status").startswith(b"{")

    def toggle_ledger(self):
        if self.ledger.open:
            self.ledger.close()
        else:
            self.ledger.open = True

    def toggle_lond(self):
        lond = self.londs.pop(3, None)
        if lond is None:
            self.start_lond(3)
        else:
            lond.__exit__()

    def change_the_key(self):
        """Make a new key and reseal the spool while its transactions are sent."""
        if self.resealing is None or self.resealing.poll() is not None:
            lonc = [*LONC, "-c", self.machine.configuration, "delayed"]
            subprocess.run([*lonc, "keygen", self.keys], check=True, stdout=subprocess.DEVNULL)
            # Its warnings that transactions are in flight are of no interest.
            self.resealing = subprocess.Popen(
                [*lonc, "reseal"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    def be_greedy(self):
        """Send a few megabytes without a newline; disconnect such clients when there are many."""
        if len(self.greedy) > 20:
            while self.greedy:
                self.greedy.pop().close()
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(0)
        with contextlib.suppress(OSError):
            client.connect(str(self.machine.sockets / self.random.choice(["l2", "l3", "l5"])))
            self.greedy.append(client)
            for client in self.greedy:
                for _ in range(20):
                    with contextlib.suppress(OSError):
                        client.send(b"x" * 65536)

    ACTIONS, WEIGHTS = zip(
        (kill_child, 4),
        (stop_child, 3),
        (kill_parent, 0.5),
        (kill_writer, 1),
        (reload, 2),
        (reload_nonsense, 1),
        (update, 2),
        (print_status, 1),
        (disable, 1),
        (ask_status, 2),
        (toggle_ledger, 3),
        (toggle_lond, 1),
        (change_the_key, 0.3),
        (be_greedy, 3),
        strict=True,
    )


def mix(machine, seed, seconds):
    return Mix(machine, seed).run(seconds)


WHOLE = {
    "many requests": lambda machine, seed: scenarios.wrong_replies(machine, 1_000_000, seed),
    "a dead host": lambda machine, seed: scenarios.dead_host(machine, 10, seed),
    "kills": lambda machine, seed: scenarios.kills(machine, 500, seed),
    "delayed transactions": lambda machine, _: scenarios.files(machine, 10_000),
    "children killed every 200 ms": lambda machine, _: scenarios.connects(machine, 30),
    "a child that dies at once": lambda machine, _: scenarios.crash_loop(machine, 60, 10),
    "orphans": lambda machine, seed: scenarios.orphans(machine, 50, seed),
    "updates": lambda machine, _: scenarios.updates(machine, 200),
    "reloads": lambda machine, _: scenarios.hups(machine, 100),
    "requests without end": lambda machine, _: scenarios.endless(machine, 900),
}


def show(name, figures):
    print(name)
    for label, figure in figures.items():
        print(f"    {label}: {figure}")
    sys.stdout.flush()


def on_a_machine(scenario, *arguments):
    with tempfile.TemporaryDirectory(prefix="lonc-soak-") as directory:
        machine = Machine(Path(directory))
        try:
            return scenario(machine, *arguments)
        except BaseException:
            print(machine.log_file.read_text()[-20_000:])
            raise
        finally:
            machine.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--mix", action="store_true", help="the random mix alone")
    options = parser.parse_args()
    over = time.monotonic() + 60 * options.minutes
    print(f"--seed {options.seed}", flush=True)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limit[1]), limit[1]))
    for name, scenario in [] if options.mix else WHOLE.items():
        show(name, on_a_machine(scenario, options.seed))
    seed = options.seed
    while (left := over - time.monotonic()) > 0:
        show(f"a random mix, --mix --seed {seed}", on_a_machine(mix, seed, min(120.0, max(5.0, left))))
        seed += 1


if __name__ == "__main__":
    main()
