"""`lonc ping` and `lonc send -` of many at once."""

import os
import shlex
import signal
import time

import pytest
from support import preparations
from support.machine import LONC, Terminal, program
from support.scripted_lond import ScriptedLond


@pytest.fixture
def two(machine):
    """l1 has a lond, l2 has none."""
    machine.hosts("l1", "l2")
    machine.start_lond("l1")
    machine.run()
    return machine


def test_ping_asks_all_side_by_side(two):
    hung = two.children()["l2"]
    os.kill(hung, signal.SIGSTOP)
    impatient = program(preparations.ping_for, 3)
    begun = time.monotonic()
    done = two.command("ping", "l2", "l1", "l2", "l2", "l2", program=impatient)
    assert time.monotonic() - begun < 12  # one after the other would take 12 s at least
    assert done.returncode == 1
    replies = [line.split()[-1] for line in done.stdout.decode().splitlines()]
    assert replies == ["con_lost", "l1", "con_lost", "con_lost", "con_lost"]
    os.kill(hung, signal.SIGCONT)


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (b"l1", None),
        (b"unknown_cmd", None),
        (b"refused", None),
        (b"l2", "the reply is of l2: the address or DNS name in the table leads to another host"),
        (
            b"default",
            "the reply is of default: lond was not asked for a host, so its keys do not fit; try"
            " loncKeyMode insecure",
        ),
    ],
)
def test_ping_says_so_if_another_id_replies(machine, reply, sentence):
    def script(peer):
        peer.greet()
        while peer.hear() is not None:
            peer.say(reply)

    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        done = machine.command("ping", "l1")
        assert done.stdout.endswith(b" ms  " + reply + b"\n")
        assert done.stderr.decode() == (f"lonc: l1: {sentence}\n" if sentence else "")
        assert done.returncode == (1 if sentence else 0)
        machine.stop()


@pytest.mark.parametrize("parallel", [1, 8])
def test_many_lines_get_their_replies_in_their_order(two, parallel):
    lines = [b"echo:%d" % number for number in range(300)]
    command = ["send", "--parallel", str(parallel), "l1", "-"]
    done = two.command(*command, input=b"\n".join(lines) + b"\n")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines() == [b"%d" % number for number in range(300)]


@pytest.mark.parametrize("parallel", ["0", "1000"])
def test_so_many_at_a_time_cannot_be(two, parallel):
    done = two.command("send", "--parallel", parallel, "l1", "-")
    assert (done.returncode, done.stderr) == (2, b"lonc: --parallel must be 1 to 256\n")


def test_progress_on_a_terminal(two, tmp_path):
    lines = tmp_path / "lines"
    lines.write_bytes(b"echo:x\n" * 3000)
    words = " ".join(map(str, [*LONC, "-c", two.configuration]))
    terminal = Terminal(["/bin/sh", "-c", f"{words} send l1 - < {lines} > {tmp_path}/replies"])
    terminal.until(r"\d+%(?s:.*)\d+ replies")
    assert terminal.end() == 0
    assert (tmp_path / "replies").read_bytes() == b"x\n" * 3000


def test_without_rich_there_is_no_progress(two, tmp_path):
    lines = tmp_path / "lines"
    lines.write_bytes(b"echo:x\n" * 300)
    without = program(preparations.without_library, "rich")
    words = shlex.join(map(str, [*without, "-c", two.configuration]))
    script = f"{words} send l1 - < {lines} > {tmp_path}/replies; echo status $?"
    terminal = Terminal(["/bin/sh", "-c", script])
    assert terminal.until("status 0\r\n") == "status 0\r\n"
    assert terminal.end() == 0
    assert (tmp_path / "replies").read_bytes() == b"x\n" * 300
