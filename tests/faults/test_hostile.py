"""The whole program between hostile londs and clients.

It keeps running, within its limits and without using CPU when idle; no client gets another's bytes.
"""

import random
import re
import socket
import threading
import time
from pathlib import Path

import pytest
from fuzz.client_line import LIMIT, WORDS, due
from support.machine import eventually, peak_memory, read_line, read_to_the_end
from support.scripted_lond import BUILD_KEY, ScriptedLond, echoing

from lonc.wire.cipher import LineCipher, shared_key

MARGIN = 64 << 20  # bytes: the memory of an idle child, and freed memory not returned to the system
PATIENCE = {
    "loncConnectRetries": 1000,
    "loncConnectTimeout": 1,
    "loncHandshakeTimeout": 1,
    "loncRequestTimeout": 2,
    "loncQueueTimeout": 4,
    "loncRetryDelay": 0.1,
    "loncRetryMaxDelay": 0.2,
    "loncLogLevel": "debug",
}


def endless(peer):
    while True:
        peer.socket.sendall(b"x" * 65536)


def flooding(peer):
    while True:
        peer.socket.sendall(b"flood\n" * 10_000)


def garbage(peer):
    rng = random.Random(1)
    while True:
        peer.socket.sendall(rng.randbytes(65536))


def stat(pid):
    """State of a process, and its CPU time in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], (int(fields[11]) + int(fields[12])) / 100


def cpu(pid):
    return stat(pid)[1]


def at_rest(pid):
    """Whether a process sleeps for a moment without interruption."""
    for _ in range(20):
        if stat(pid)[0] != "S":
            return False
        time.sleep(0.01)
    return True


def check_log(machine, lines):
    """The log has no error of lonc itself, at most that many lines, and no secret."""
    log = machine.log()
    assert machine.crashes() == []
    assert not re.search("crash|Traceback|exited with|was killed", log)
    assert "secret" not in log
    assert all(re.match(r"\d{4}-\d\d-\d\dT\S+ [A-Z]+ \d+ \w+: ", line) for line in log.splitlines())
    assert log.isascii()
    assert len(log.splitlines()) < lines


@pytest.mark.parametrize("greets", [False, True], ids=["from the start", "in reply"])
@pytest.mark.parametrize("speak", [endless, flooding, garbage], ids=lambda speak: speak.__name__)
def test_a_lond_that_speaks_without_end(machine, speak, greets):
    """The bytes held stay below the limit, and are released.

    They take up to four times as much memory: lines that grow side by side are moved, and leave gaps.
    """
    most = 64 << 20
    machine.configure(**PATIENCE, loncMaxBuffered=most, loncMaxReply=2 * most)

    def script(peer):
        if greets:
            peer.greet()
            peer.hear()
        speak(peer)

    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        child = machine.children()["l1"]
        for _ in range(2):
            clients = [machine.connect() for _ in range(8)]
            for number, client in enumerate(clients):
                client.sendall(b"encrypt:auth:secret%d\n" % number)
            for client in clients:
                reply = read_line(client)
                assert reply in (b"con_lost", b"flood") or (speak is garbage and greets)
                assert b"secret" not in reply
                client.close()
        eventually(lambda: machine.status()["memory"] < 2 * most)
        assert machine.status()["clients"] == 1
        assert peak_memory(child) < 4 * most
        machine.stop()
    check_log(machine, lines=80)


ABSURD = [
    b"enc:",
    b"enc::",
    b"enc:-1:2c38521fdc9c5b90",
    b"enc:9:2c38521fdc9c5b90",
    b"enc:999999999999999999:2c38521fdc9c5b90",
    b"enc:" + b"9" * 1_000_000 + b":2c38521fdc9c5b90",
    b"enc:1:" + b"0" * 1_000_001,
    b"enc:1:" + b":" * 16,
    b"enc:1:2c38521fdc9c5b90\r",
    b"enc:" * 100_000,
]


def test_absurd_enc_lines_end_their_connection_and_no_other(machine):
    machine.configure(**PATIENCE)
    asked = iter([b"", *ABSURD])

    def script(peer):
        peer.greet()
        while peer.hear() is not None:
            peer.say(next(asked) or b"well")

    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        assert machine.ask(b"first") == b"well"
        for _ in ABSURD:
            assert machine.ask(b"encrypt:auth:secret") == b"con_lost"
        assert next(asked, None) is None
        machine.stop()
    check_log(machine, lines=60)


def test_who_trickles_costs_what_he_sends_and_no_more(machine):
    machine.configure(**PATIENCE, loncMaxConnections=3)
    sent = []

    def script(peer):
        peer.greet()
        peer.hear()
        while True:
            peer.socket.sendall(b"x")
            sent.append(1)
            time.sleep(0.005)

    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        child = machine.children()["l1"]
        asking = [machine.connect() for _ in range(3)]
        for client in asking:
            client.sendall(b"request\n")
        programs = [machine.connect() for _ in range(5)]
        used, begun = cpu(child), time.monotonic()
        while time.monotonic() - begun < 1.5:
            for program in programs:
                program.sendall(b"y")
                sent.append(1)
            time.sleep(0.01)
        assert cpu(child) - used < 0.1 + len(sent) * 150e-6 < 0.8
        for client in asking:
            assert read_line(client) == b"con_lost"
        machine.stop()
    check_log(machine, lines=40)


def test_programs_that_ask_without_end_and_never_read(machine):
    """Clients that do not read stop after a bounded read-ahead and cost no CPU; others are served.

    When they read in the end, they get all their replies, in order.
    """
    machine.configure(loncMaxBuffered=16 << 20)
    with ScriptedLond(machine.address(1), machine.port, echoing):
        machine.run()
        child = machine.children()["l1"]
        greedy = [machine.connect(timeout=0) for _ in range(6)]
        asked = []
        for number, program in enumerate(greedy):
            lines = b"".join(
                b"lonc:%200d\n" % each if number % 2 else b"%d:%200d\n" % (number, each)
                for each in range(20_000)
            )
            asked.append(lines[: _send_what_goes(program, lines)])
        eventually(lambda: at_rest(child))
        assert machine.ask(b"honest") == b"honest"
        assert peak_memory(child) < (16 << 20) + MARGIN
        for number, (program, lines) in enumerate(zip(greedy, asked, strict=True)):
            program.settimeout(30)
            whole = lines.count(b"\n")
            assert whole > 500
            if number % 2:
                replies = b"error: unknown lonc command\n" * whole
            else:
                replies = lines[: lines.rindex(b"\n") + 1]
            got = bytearray()
            while len(got) < len(replies):
                got += program.recv(1 << 20)
            assert got == replies
        eventually(lambda: at_rest(child))
        machine.stop()
    check_log(machine, lines=20)


def _send_what_goes(program, data):
    """Send until the socket is full for a moment; return the number of bytes."""
    view, refused = memoryview(data), 0
    while view and refused < 20:
        try:
            view, refused = view[program.send(view[:65536]) :], 0
        except BlockingIOError:
            refused += 1
            time.sleep(0.005)
    return len(data) - len(view)


PINGS, LINES = 50, 5000


def test_one_that_has_lonc_itself_answer_without_end_does_not_keep_others_waiting(machine):
    machine.start_lond("l1")
    machine.run()
    greedy, honest = machine.connect(), machine.connect()
    over, taken = threading.Event(), []

    def ask():
        while not over.is_set():
            greedy.sendall(b"lonc:status\n" * LINES)

    def take():
        while data := greedy.recv(1 << 20):
            taken.append(len(data))

    threads = [threading.Thread(target=each) for each in (ask, take)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(PINGS):
            honest.sendall(b"ping\n")
            assert read_line(honest) == b"l1"
    finally:
        over.set()
        threads[0].join()
        greedy.shutdown(socket.SHUT_WR)
        threads[1].join()
    assert sum(taken) > 1 << 20
    # Between two replies to the other client it gets fewer than the replies to all that it has sent.
    assert sum(taken) < PINGS * LINES * len(machine.ask(b"lonc:status"))


def test_nobody_gets_a_word_of_anothers_whatever_they_send(machine):
    """Clients send many lines at once: refused ones, lonc's own, another host's, half, too long, with
    control characters. Each line is answered as if it were alone."""
    machine.configure(loncMaxRequest=LIMIT, loncLogLevel="debug", loncDelayedInterval=3600)
    cipher = LineCipher(shared_key("l1", "a1", BUILD_KEY + b"\n"))

    def script(peer):
        peer.greet()
        while (line := peer.hear()) is not None:
            if line.startswith(b"enc:") and line != b"enc:1:":
                line = b"encrypt:" + cipher.decipher(line + b"\n")
            peer.say(b"=" + line)

    rng = random.Random(3)
    words = [word for word in WORDS if word not in (b"enc:1:", b"lonc:status")]
    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        streams = []
        for number in range(60):
            mine = [b"mine%d" % number, b"\nencrypt:auth:secret%d\n" % number]
            chosen = [rng.choice(mine if rng.random() < 0.3 else words) for _ in range(200)]
            streams.append(b"".join(chosen))
        programs = [machine.connect() for _ in streams]
        for program, stream in zip(programs, streams, strict=True):
            program.sendall(stream)
            program.shutdown(socket.SHUT_WR)
        for program, stream in zip(programs, streams, strict=True):
            assert read_to_the_end(program) == due(stream, by_dns=False)[0]
        machine.stop()
    check_log(machine, lines=10_000)
