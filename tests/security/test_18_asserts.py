"""Clients and londs that say what nobody expects, to a daemon with and without `assert` statements."""

import contextlib
import sys

import pytest
from support.machine import BIN_LONC, eventually, exists
from support.scripted_lond import ScriptedLond, echoing

# What lond says instead of one of its answers, or to a request.
NONSENSE = [
    b"",
    b"\0" * 50,
    b"ok:ssl",
    b"ok:local",
    b"refused",
    b"enc:",
    b"enc:5:zz",
    b"enc:-1:0011223344556677",
    b"enc:99999999999999999999:0011223344556677",
    b"\xff" * 1000,
    b"two\nlines",
    b"ok\nok",
]

# What clients say.
LINES = [
    b"",
    b"sethost:",
    b"sethost:l1",
    b"sethost:l1:",
    b"sethost:l2:ping",
    b"sethost:l1:encrypt:",
    b"encrypt:",
    b"encrypt:encrypt:x",
    b"encrypt:sethost:l1:x",
    b"enc:5:00",
    b"init",
    b"ekey",
    b"exit",
    b"lonc:",
    b"lonc:nonsense",
    b"close_connection_exit_now",
    b"\0\xff",
    b"put:msu:a:b",
]


def lond_that_breaks_off(step, line):
    """A script: lond's part of the dialogue up to `step`, then `line`, and all that follows is heard."""

    def script(peer):
        with contextlib.suppress(OSError):
            if step < 3:
                for answer in (b"12345", b"ok")[:step]:
                    peer.hear()
                    peer.say(answer)
            else:
                peer.greet()
            peer.hear()
            peer.say(line)
            while peer.hear() is not None:
                pass

    return script


@pytest.fixture(params=[[], ["-O"]], ids=["with asserts", "without"])
def optimized(request):
    return [sys.executable, *request.param, "-bb", "-W", "error", str(BIN_LONC)]


@pytest.mark.parametrize("names", ["id", "dns"])
def test_lines_of_clients_end_nothing(machine, optimized, names):
    name = {"id": "l1", "dns": "l1.example.org"}[names]
    machine.configure(loncSocketName=names)
    with ScriptedLond(machine.address(1), machine.port, echoing):
        machine.run(program=optimized)
        before = machine.children()
        for line in LINES:
            with machine.connect(name) as client:
                client.sendall(line + b"\n")
                client.recv(1000)
        delayed = machine.sockets / "delayed"
        for number, line in enumerate(LINES):
            (delayed / f"1700000000.{number}.1.x.l1").write_bytes(line + b"\n")
        assert machine.ask(b"sethost:l1:x" if names == "dns" else b"x", name) == b"x"
        assert machine.children() == before
        assert machine.command("reload", program=optimized).returncode == 0
        assert machine.command("stop", program=optimized).returncode == 0
    assert "Error" not in machine.log()


@pytest.mark.parametrize("step", range(4))
def test_lines_of_lond_end_nothing(machine, optimized, step):
    machine.configure(
        loncRetryDelay=0.1, loncRetryMaxDelay=0.1, loncHandshakeTimeout=1, loncRequestTimeout=1
    )
    scripts = [lond_that_breaks_off(step, line) for line in NONSENSE]

    def each_in_turn(peer):
        (scripts.pop() if scripts else echoing)(peer)

    with ScriptedLond(machine.address(1), machine.port, each_in_turn):
        machine.run(program=optimized)
        child = machine.children()["l1"]
        eventually(lambda: machine.ask(b"encrypt:x") == b"x" and not scripts, 60)
        assert exists(child)
        assert machine.command("stop", program=optimized).returncode == 0
    assert "Error" not in machine.log()
