"""Londs with a fault: a given one at a given step, or random ones at random steps.

python failing_lond.py ADDRESS PORT SEED    random faults, until SIGTERM
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
STRAY = b"a line that nobody has asked for"  # a client that receives it got a wrong reply


def late(peer, answer):
    """Answers after the timeout of the request."""
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
    """Answers in three segments, which is not a fault."""
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
    """Stops reading, until the other side closes."""
    gone = select.poll()
    gone.register(peer.socket, select.POLLRDHUP)
    gone.poll(30_000)


def refusing(peer, answer):
    peer.say(REFUSED + answer)


def merging(peer, answer):
    """Sends two lines in one segment."""
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
    """Whether `reply` is one that a faulty lond sends to the request `text`, and to no other request."""
    return reply in (GARBAGE + text, REFUSED + text)


def converse(peer, fault_at):
    """Speak lond's part of the dialogue, then echo requests, with the fault of `fault_at(step)`, if any.

    Every fault except `split` ends the conversation.
    """
    for step, answer in enumerate(_ANSWERS):
        if not _exchange(peer, fault_at(step), answer):
            return
    while _exchange(peer, fault_at(REQUEST), None):
        pass


def _exchange(peer, fault, answer):
    """Receive a line and send `answer`, or an echo; return False if the conversation is over."""
    if fault is deaf:
        deaf(peer, answer)
        return False
    line = peer.hear()
    if line is None:
        return False
    reply = line.removeprefix(b"echo:") if answer is None else answer
    if fault is None:
        peer.say(reply)
        return True
    fault(peer, reply)
    return fault is split


def failing_at(step, fault, healthy):
    """A script: `fault` at `step`, but not at the first request, until `healthy` is set."""

    def script(peer):
        requests = 0

        def fault_at(this):
            nonlocal requests
            requests += this == REQUEST
            fails = this == step and not healthy.is_set() and requests != 1
            return fault if fails else None

        converse(peer, fault_at)

    return script


def random_faults(seed, one_in=500):
    """A script: a random fault at one in `one_in` requests, and at one in twenty steps of a dialogue."""
    rng = random.Random(seed)

    def fault_at(step):
        if step == REQUEST and rng.random() < 0.01:
            return split
        return rng.choice(FAULTS) if rng.random() * (one_in if step == REQUEST else 20) < 1 else None

    return lambda peer: converse(peer, fault_at)


class LondProcess:
    """A lond with random faults in a process of its own; a context manager."""

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
    with ScriptedLond(place, port, random_faults(seed)):
        print("listens", flush=True)
        signal.pause()
