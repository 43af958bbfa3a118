"""A lond that says a line unasked on a connection in constant use."""

import threading

import pytest
from support.machine import eventually
from support.scripted_lond import ScriptedLond

UNASKED = b"nobody has asked for this"


class Shifting:
    """A lond that answers each request with itself, `ping` with its id.

    When `shift` is set, it says a line unasked once, ahead of the reply to the next request.
    """

    def __init__(self):
        self.shift = threading.Event()
        self.pings = 0

    def __call__(self, peer):
        peer.greet()
        owed = None  # the reply of the request before, on a connection that is out of step
        while (line := peer.hear()) is not None:
            answer = b"l1" if line == b"ping" else line
            self.pings += line == b"ping"
            if self.shift.is_set() and line != b"ping":
                self.shift.clear()
                owed, answer = answer, UNASKED
            elif owed is not None:
                owed, answer = answer, owed
            peer.say(answer)


@pytest.fixture
def shifting(machine):
    lond = Shifting()
    with ScriptedLond(machine.address(1), machine.port, lond):
        yield lond


def use(machine, until):
    """Two clients ask without a pause over one connection. Returns the replies that were wrong."""
    wrong = []
    over = threading.Event()

    def client(name):
        number = 0
        with machine.connect() as connection, connection.makefile("rb") as replies:
            while not over.is_set():
                request = b"%b%d\n" % (name, number)
                number += 1
                connection.sendall(request)
                if (reply := replies.readline()) != request:
                    wrong.append(reply)

    threads = [threading.Thread(target=client, args=(name,)) for name in (b"a", b"b")]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: until(wrong), 20)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return wrong


def test_it_is_closed_counted_and_reported(machine, shifting):
    machine.configure(loncMaxConnections=1, loncSyncInterval=0.2)
    machine.run()
    use(machine, lambda _: shifting.pings >= 3)  # in step: each check is passed
    assert "out of step" not in machine.log()
    shifting.shift.set()
    wrong = use(machine, lambda wrong: b"con_lost\n" in wrong)
    assert UNASKED + b"\n" in wrong
    assert wrong.count(b"con_lost\n") == 1  # what was in flight when it was noticed
    assert use(machine, lambda _: shifting.pings >= 6) == []
    status = machine.status()
    assert status["reasons"] == {"out of step": 1}
    assert status["out_of_step"] == 1
    assert status["ping_known"] is True
    assert "out of step: lond answers ping with another line than at first" in machine.log()
    checked = machine.command("check-health")
    assert checked.returncode == 1
    assert b"l1 has had connections out of step in the last hour: 1" in checked.stdout


def test_an_idle_connection_and_one_with_pauses_is_not_asked(machine, shifting):
    machine.configure(loncMaxConnections=1, loncSyncInterval=0.001)
    machine.run()
    eventually(lambda: machine.status()["connections"].get("Idle"))
    for _ in range(5):
        assert machine.ask(b"x") == b"x"
        threading.Event().wait(0.01)
    assert shifting.pings == 1
    assert machine.status()["done"] == 5


def test_without_the_setting_nothing_is_asked(machine, shifting):
    machine.configure(loncMaxConnections=1, loncSyncInterval=0)
    machine.run()
    shifting.shift.set()
    use(machine, lambda wrong: len(wrong) > 100)
    assert shifting.pings == 0
    assert "ping_known" not in machine.status()
