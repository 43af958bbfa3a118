"""Londs with a fault: always the same one at one step, or random ones now and then.

python failing_lond.py ADDRESS PORT SEED    now and then, in a process of its own, until TERM
"""

import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where it is run as a program

from support.scripted_lond import BUILD_KEY, ScriptedLond

STEPS = ["init", "challenge", "ekey", "request"]
_ANSWERS = [b"12345", b"ok", BUILD_KEY]  # to the first three
REQUEST = len(_ANSWERS)

GARBAGE = b"\0\xff\x80 garbage "  # with the answer behind it
REFUSED = b"refused "
STRAY = b"a line that nobody has asked for"  # whoever is told it has met a stranger's reply


def late(peer, answer):
    """It answers when nobody waits any more."""
    time.sleep(1.0)
    peer.say(answer)


def silent(peer, answer):
    while peer.hear() is not None:
        pass


def slow(peer, answer):
    """A byte a second."""
    for number in range(len(answer)):
        peer.socket.sendall(answer[number : number + 1])
        time.sleep(1.0)
    peer.say(b"")


def split(peer, answer):
    """The one that is no fault."""
    for part in (answer[:1], answer[1:3], answer[3:] + b"\n"):
        peer.socket.sendall(part)
        time.sleep(0.001)


def half_closing(peer, answer):
    peer.socket.shutdown(1)
    silent(peer, answer)


def resetting(peer, answer):
    peer.reset()


def garbage(peer, answer):
    peer.say(GARBAGE + answer, STRAY, b"\r\r\0")


def deaf(peer, answer):
    """It reads nothing any more, and does not even notice that the other side has gone."""
    gone = select.poll()
    gone.register(peer.socket, select.POLLRDHUP)
    gone.poll(30_000)


def refusing(peer, answer):
    peer.say(REFUSED + answer)


def merging(peer, answer):
    """Two lines in a segment."""
    peer.say(answer, STRAY)


FAULTS = [
    late,
    silent,
    slow,
    half_closing,
    resetting,
    garbage,
    deaf,
    refusing,
    merging,
]


def is_wrong_answer(reply, text):
    """Whether it is what a lond that is out of its mind replies to `text`, and to nobody else."""
    return reply in (GARBAGE + text, REFUSED + text)


def converse(peer, fault_at):
    """The dialogue and then echoes, but where `fault_at(step)` names a fault: that is the end, but for
    the answers that are only split."""
    for step, answer in enumerate(_ANSWERS):
        if not _exchange(peer, fault_at(step), answer):
            return
    while _exchange(peer, fault_at(REQUEST), None):
        pass


def _exchange(peer, fault, answer):
    """Hear a line and answer it, with itself unless an `answer` is given; False if that was the end."""
    if fault is deaf:
        deaf(peer, answer)
        return False
    line = peer.hear()
    if line is None:
        return False
    said = line.removeprefix(b"echo:") if answer is None else answer
    if fault is None:
        peer.say(said)
        return True
    fault(peer, said)
    return fault is split


def failing_at(step, fault, well):
    """A script: that fault at that step, of requests at every second, until `well` is set."""

    def script(peer):
        heard = 0

        def fault_at(this):
            nonlocal heard
            heard += this == REQUEST
            fails = this == step and not well.is_set() and heard != 1
            return fault if fails else None

        converse(peer, fault_at)

    return script


def now_and_then(seed, one_in=500):
    """A script: any fault, once in so many requests and once in twenty steps of a dialogue."""
    rng = random.Random(seed)

    def fault_at(step):
        if step == REQUEST and rng.random() < 0.01:
            return split
        return rng.choice(FAULTS) if rng.random() * (one_in if step == REQUEST else 20) < 1 else None

    return lambda peer: converse(peer, fault_at)


class LondProcess:
    """Such a one, so that its threads are in nobody's way; a context manager."""

    def __init__(self, address, port, seed):
        command = [sys.executable, __file__, address, str(port), str(seed)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout.readline() == b"listens\n"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


if __name__ == "__main__":
    place, port, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with ScriptedLond(place, port, now_and_then(seed)):
        print("listens", flush=True)
        signal.pause()
