"""The whole program with londs that do not answer and clients that send without end."""

import contextlib
import resource
import threading
import time
from pathlib import Path

import pytest
from support import preparations
from support.machine import eventually, peak_memory, read_line
from support.scripted_lond import BUILD_KEY, ScriptedLond, echoing

from lonc.wire.cipher import LineCipher, shared_key

TIMEOUTS = {
    "loncConnectTimeout": 0.5,
    "loncHandshakeTimeout": 0.5,
    "loncRequestTimeout": 0.5,
    "loncQueueTimeout": 0.5,
}


def silent_after(lines):
    """A lond that sends that many lines of its part of the dialogue, and then nothing."""

    def script(peer):
        for line in (b"12345", b"ok", b"54559A79EDEA097AD9ADB087C71818")[:lines]:
            peer.hear()
            peer.say(line)
        while peer.hear() is not None:
            pass

    return script


@pytest.mark.parametrize("lines", range(4))
def test_no_silence_lasts_longer_than_the_timeouts(machine, lines):
    machine.configure(**TIMEOUTS, loncMaxConnections=1)
    with ScriptedLond(machine.address(1), machine.port, silent_after(lines)):
        machine.run()
        clients = [machine.connect() for _ in range(5)]
        begun = time.monotonic()
        for client in clients:
            client.sendall(b"ping\n")
        for client in clients:
            assert read_line(client) == b"con_lost"
        assert time.monotonic() - begun < 10  # the shortest of the defaults, but for connecting
        assert machine.status()["waiting"] == 0
        machine.stop()


def test_requests_for_which_no_connection_is_free_are_logged_with_the_state_of_the_pool(machine):
    machine.configure(loncQueueTimeout=0.5, loncMaxConnections=1)
    with ScriptedLond(machine.address(1), machine.port, silent_after(3)):
        machine.run()
        in_flight, *others = [machine.connect() for _ in range(4)]
        in_flight.sendall(b"ping\n")
        eventually(lambda: machine.status()["connections"] == {"ReceivingReply": 1})
        for client in others:
            client.sendall(b"ping\n")
        for client in others:
            assert read_line(client) == b"con_lost"
        status = machine.status()
        assert status["reasons"] == {"queue timeout": 3}
        assert status["oldest_in_flight"] >= 0.5
        assert "1 of 1 connection waits for a reply, the oldest for" in status["last_error"][1]
        lines = [line for line in machine.log().splitlines() if "no connection was free" in line]
        assert len(lines) == 1  # the others in a minute
        in_flight.close()
        machine.stop()


def test_a_reply_that_comes_too_late_reaches_nobody(machine):
    machine.configure(loncRequestTimeout=0.3, loncMaxConnections=1)
    late = threading.Event()

    def script(peer):
        peer.greet()
        while (line := peer.hear()) is not None:
            if line == b"slow":
                late.wait(10)
            peer.say(line)

    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        assert machine.ask(b"slow") == b"con_lost"
        client = machine.connect()
        client.sendall(b"quick\n")
        assert read_line(client) == b"quick"  # on another connection
        late.set()
        for number in range(20):
            client.sendall(b"%d\n" % number)
            assert read_line(client) == b"%d" % number
        assert machine.log().count("no reply within 0.3 s: ReceivingReply") == 1
        machine.stop()


def test_who_asks_first_is_served_first_as_the_only_connection_sees_it(machine):
    machine.configure(loncMaxConnections=1)
    released = threading.Event()
    seen = []

    def script(peer):
        peer.greet()
        while (line := peer.hear()) is not None:
            released.wait(30)
            seen.append(line)
            peer.say(line)

    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        clients = [machine.connect() for _ in range(50)]
        for number, client in enumerate(clients):
            client.sendall(b"%d\n" % number)
            eventually(lambda number=number: machine.status()["waiting"] == number)
        released.set()
        for number, client in enumerate(clients):
            assert read_line(client) == b"%d" % number
        assert seen == [b"%d" % number for number in range(50)]
        machine.stop()


def test_idle_connections_are_closed_and_made_anew_when_needed(machine):
    machine.configure(loncIdleTimeout=0.3)
    machine.start_lond("l1")
    machine.run()
    assert machine.ask(b"ping") == b"l1"
    eventually(lambda: machine.status()["connections"] == {})
    assert machine.status()["state"] == "ready"
    assert machine.ask(b"ping") == b"l1"
    assert "WARNING" not in machine.log()


def test_if_the_system_has_no_descriptor_left_accepting_waits_and_nobody_else_does(machine):
    machine.start_lond("l1")
    flag = machine.directory / "poor"
    machine.run_with(preparations.no_descriptors_while, flag)
    kept = machine.connect()
    kept.sendall(b"ping\n")
    assert read_line(kept) == b"l1"
    flag.touch()
    waiting = machine.connect()
    waiting.sendall(b"ping\n")
    eventually(lambda: "cannot accept: none left" in machine.log())
    child = machine.children()["l1"]
    used = cpu(child)
    for _ in range(100):
        kept.sendall(b"ping\n")
        assert read_line(kept) == b"l1"
    begun = time.monotonic()
    while time.monotonic() - begun < 0.5:
        time.sleep(0.1)
    assert cpu(child) - used < 0.3  # it does not spin
    flag.unlink()
    assert read_line(waiting) == b"l1"


def cpu(pid):
    """CPU time of a process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_really_no_descriptor_left_and_one_that_is_closed_serves_the_next_at_once(machine):
    machine.start_lond("l1")
    machine.run()
    child = machine.children()["l1"]
    kept = [machine.connect() for _ in range(3)]
    for client in kept:
        client.sendall(b"ping\n")
        assert read_line(client) == b"l1"
    used = len(list(Path(f"/proc/{child}/fd").iterdir()))
    before = resource.prlimit(child, resource.RLIMIT_NOFILE)
    resource.prlimit(child, resource.RLIMIT_NOFILE, (used, before[1]))
    waiting = machine.connect()
    waiting.sendall(b"ping\n")
    eventually(lambda: "cannot accept: Too many open files" in machine.log())
    kept[0].sendall(b"ping\n")
    assert read_line(kept[0]) == b"l1"
    kept.pop().close()
    assert read_line(waiting) == b"l1"
    resource.prlimit(child, resource.RLIMIT_NOFILE, before)


def test_replies_that_nobody_takes_are_held_up_to_the_same_limit(machine):
    most = 32 << 20
    machine.configure(loncMaxBuffered=most, loncDrainTimeout=0)

    def script(peer):
        peer.greet()
        while (line := peer.hear()) is not None:
            peer.say(line if line == b"small" else b"x" * (2 << 20))

    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        child = machine.children()["l1"]
        for _ in range(60):
            with contextlib.suppress(BlockingIOError):
                machine.connect(timeout=0).send(b"large\n")
        eventually(lambda: machine.status()["done"] >= 60, 30)
        assert machine.ask(b"small") == b"small"
        assert machine.status()["clients"] < 30
        assert peak_memory(child) < most + (64 << 20)
        machine.stop()


@pytest.mark.parametrize("enciphered", [False, True])
@pytest.mark.parametrize("way", ["request", "reply"])
def test_a_long_line_is_held_at_most_twice(machine, way, enciphered):
    """An enciphered line is twice as long as its text, and is held in that form."""
    size = 32 << 20
    cipher = LineCipher(shared_key("l1", "a1", BUILD_KEY + b"\n"))
    text = b"x" * (size // 2 - 100 if enciphered else size)
    machine.configure(loncMaxRequest=2 * size)

    def script(peer):
        peer.greet()
        while (line := peer.hear()) is not None:
            if way == "request":
                assert (cipher.decipher(line + b"\n") if enciphered else line) in (text, b"short")
                peer.say(b"ok")
            else:
                answer = text if line == b"long" else line
                peer.say(cipher.encipher(answer)[:-1] if enciphered else answer)

    with ScriptedLond(machine.address(1), machine.port, script) as lond:
        machine.run()
        prefix = b"encrypt:" if enciphered and way == "request" else b""
        assert machine.ask(prefix + b"short") == (b"ok" if way == "request" else b"short")
        before = peak_memory(machine.children()["l1"])  # with the code of the cipher loaded
        if way == "request":
            assert machine.ask(prefix + text) == b"ok"
        else:
            assert machine.ask(b"long") == text
        assert lond.accepted == 1
        assert peak_memory(machine.children()["l1"]) - before < 2 * size + (1 << 20)
        machine.stop()


def test_a_resolver_that_hangs_delays_its_host_only(machine):
    machine.table.write_text(
        f"l1:dom:library:l1.example.org:{machine.address(1)}\nl2:dom:library:slow.example.org\n"
    )
    machine.configure(loncLookupTimeout=0.5)
    machine.start_lond("l1")
    machine.run_with(preparations.resolve_slowly)
    begun = time.monotonic()
    slow = machine.connect("l2")
    slow.sendall(b"ping\n")
    assert machine.ask(b"ping") == b"l1"
    assert machine.status("l2")["waiting"] == 1  # its child still answers
    assert read_line(slow) == b"con_lost"
    assert time.monotonic() - begun > 0.4
    assert "cannot resolve slow.example.org: no answer within 0.5 s" in machine.log()
    assert machine.stop() == 0


def test_all_addresses_of_a_name_are_tried(machine):
    machine.table.write_text("l1:dom:library:l1.example.org\n")
    found = [(machine.address(number), machine.port) for number in (2, 3, 1)]
    with ScriptedLond(machine.address(1), machine.port, echoing):
        machine.run_with(preparations.resolve_to, *found)
        assert machine.ask(b"hello") == b"hello"
        assert "WARNING" not in machine.log()
        machine.stop()


@pytest.mark.parametrize("years", [-1, 1])
def test_the_wall_clock_changes_nothing(machine, years):
    machine.configure(**TIMEOUTS)
    flag = machine.directory / "jump"
    with ScriptedLond(machine.address(1), machine.port, silent_after(3)):
        machine.run_with(preparations.jump_in_time, years * 31536000, flag)
        client = machine.connect()
        client.sendall(b"ping\n")
        eventually(lambda: machine.status()["connections"].get("ReceivingReply") == 1)
        flag.touch()
        begun = time.monotonic()
        assert read_line(client) == b"con_lost"
        assert time.monotonic() - begun > 0.2
        assert machine.ask(b"reset_retries") == b"ok"
        machine.stop()
