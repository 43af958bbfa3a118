"""Client, child or parent is killed at any step: no saved request is lost and no process is left."""

import itertools
import os
import shutil
from collections import Counter

from faults import sabotage, scenarios
from faults.sabotage import give, kill
from support.machine import eventually, program
from support.scripted_lond import ScriptedLond

from lonc.spool import spool


def test_kills_at_random_moments(machine):
    print(scenarios.kills(machine, count=20, seed=2))


def test_a_client_at_any_step_of_saving(machine):
    """The file is whole or missing; it exists if the client got con_delayed."""
    settings = machine.settings()
    machine.sockets.mkdir(mode=0o750)
    unreported = 0
    for step in itertools.count(1):
        request = b"put:%d" % step
        readable, writable = os.pipe()
        client = os.fork()
        if client == 0:
            try:
                kill(step)
                spool.save(settings, request, "l1")
                os.write(writable, b"con_delayed")
            finally:
                os._exit(0)
        os.close(writable)
        _, status = os.waitpid(client, 0)
        with open(readable, "rb") as answer:
            reported = answer.read()
        names, impossible = spool.waiting(settings.delayed_directory)
        assert impossible == []
        for name in names:
            assert (settings.delayed_directory / name.text).read_bytes() == request + b"\n"
        shutil.rmtree(settings.delayed_directory, ignore_errors=True)
        assert names or not reported
        unreported += bool(names) and not reported
        if status == 0:
            break
    assert reported
    assert unreported
    assert step > 30


def test_a_child_at_any_step_of_sending_a_delayed_transaction(machine):
    """The next child executes the transaction: once, or twice."""
    machine.configure(loncDelayedInterval=0.1)
    order = machine.directory / "steps"
    ledger = scenarios.Ledger()
    directory = machine.sockets / "delayed"
    with ScriptedLond(machine.address(1), machine.port, ledger.script):
        machine.run(program=program(sabotage.at_replay, order))
        for step in itertools.count(1, 5):
            child = eventually(lambda: machine.children().get("l1"))
            give(order, "kill", step)
            (directory / f"{step}.0.1.put.l1").write_bytes(b"put:%d\n" % step)
            eventually(lambda: scenarios.pending_in(directory) == [])
            if machine.children().get("l1") == child:
                break
        machine.stop()
    times = Counter(ledger.seen)
    assert set(times) == {b"put:%d" % each for each in range(1, step + 1, 5)}
    assert set(times.values()) == {1, 2}
    assert step > 50


def test_a_child_at_any_step_of_carrying_out_side_by_side(machine):
    """The requests of each user are carried out in their order, each at least once."""
    machine.configure(loncDelayedInterval=0.1)
    order = machine.directory / "steps"
    ledger = scenarios.Ledger()
    directory = machine.sockets / "delayed"
    expected = []
    with ScriptedLond(machine.address(1), machine.port, ledger.script):
        machine.run(program=program(sabotage.at_replay, order))
        for step in itertools.count(1, 23):
            child = eventually(lambda: machine.children().get("l1"))
            saved = [
                b"put:dom:%b:%d:%d" % (user, step, n) for n in (1, 2) for user in (b"x", b"y", b"z")
            ]
            give(order, "kill", step)
            for request in saved:
                spool.save(machine.settings(), request, "l1")
            expected += saved
            eventually(lambda: scenarios.pending_in(directory) == [], 30)
            if machine.children().get("l1") == child:
                break
        machine.stop()
    assert set(ledger.seen) == set(expected)
    for user in (b":x:", b":y:", b":z:"):
        places = [expected.index(request) for request in ledger.seen if user in request]
        assert places == sorted(places)
    assert step > 50


def test_the_parent_at_any_step(machine):
    print(scenarios.orphans(machine, runs=6, seed=3))


def test_connects_while_the_children_are_killed(machine):
    print(scenarios.connects(machine, seconds=1.5))


def test_a_child_that_dies_at_once(machine):
    print(scenarios.crash_loop(machine, seconds=3, most=3))
