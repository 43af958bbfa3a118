"""Each case: the sides that are measured in turn, and the figure computed from their CPU times."""

import binascii
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cryptography.hazmat.decrepit.ciphers.algorithms import IDEA
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from lonc.wire.cipher import LineCipher, shared_key

from .ends import BUILD_KEY, ECHO, Ends, percentile
from .subjects import HAProxy, Lonc, Relay, Subject

KIB, MIB = 1 << 10, 1 << 20
MICRO = 1e6
KEY = shared_key("h0", "a1", BUILD_KEY + b"\n")


@dataclass(frozen=True)
class Measured:
    """One round of one side: CPU seconds per transaction, transactions a second, latencies (s)."""

    cpu: float
    rate: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Side:
    """A subject under a load.

    `request` and `reply` are sizes in bytes, without newline; without `reply` lond echoes the request.
    `settings` apply to lonc only.
    """

    subject: type[Subject]
    clients: int = 50
    connections: int = 5
    request: int = 100
    reply: int | None = None
    enciphered: bool = False
    hosts: int = 1
    settings: dict[str, object] = field(default_factory=dict)

    @contextlib.contextmanager
    def running(self) -> Iterator["Running"]:
        """The side with its processes started and its clients connected."""
        text = b"x" * self.request

        def own(number: int) -> bytes:
            """A request of this client alone, so that a reply to another client is noticed."""
            return (b"%d:" % number + text)[: len(text)] + b"\n"

        if self.reply is None:
            answer, reply = ECHO, own
        else:
            line = b"y" * self.reply + b"\n"
            answer, reply = line, lambda _: line
            if self.enciphered:
                answer = LineCipher(KEY).encipher(line[:-1])
        prefix = b"encrypt:" if self.enciphered else b""
        with (
            self.subject(self.hosts, self.connections, **self.settings) as subject,
            Ends(
                subject.listening, subject.dialogue, lambda number: prefix + own(number), reply, answer
            ) as ends,
        ):
            subject.settle(lambda: ends.turn(0.01))
            ends.connect(subject.paths, self.clients)
            yield Running(subject, ends)


@dataclass(frozen=True)
class Running:
    subject: Subject
    ends: Ends

    def measure(self, seconds: float) -> Measured:
        before = self.subject.cpu_seconds()
        self.ends.run(seconds)
        cpu = self.subject.cpu_seconds() - before
        waits = self.ends.waits
        return Measured(
            cpu / self.ends.done,
            self.ends.done / self.ends.seconds,
            percentile(waits, 0.5),
            percentile(waits, 0.99),
        )


@dataclass(frozen=True)
class BareCipher:
    """Only the decoding of the hex digits of a reply of `size` bytes, and the call that deciphers it."""

    size: int

    @contextlib.contextmanager
    def running(self) -> Iterator["BareCipher"]:
        yield self

    def measure(self, seconds: float) -> Measured:
        cipher = Cipher(IDEA(KEY), modes.ECB())
        digits = binascii.hexlify(cipher.encryptor().update(b"y" * self.size))
        decryptor = cipher.decryptor()
        times, until = [], time.perf_counter() + seconds
        while not times or time.perf_counter() < until:
            began = time.process_time()
            decryptor.update(binascii.unhexlify(digits))
            times.append(time.process_time() - began)
        mean = sum(times) / len(times)
        return Measured(mean, 1 / mean, percentile(times, 0.5), percentile(times, 0.99))


Cpu = dict[str, float]  # seconds a transaction, by side


@dataclass(frozen=True)
class Case:
    """`figure` is computed from the CPU times of each round; it should be at most `goal`."""

    name: str
    sides: dict[str, Side | BareCipher]
    figure: Callable[[Cpu], float]
    goal: float | None = None


def ratio(one: str, other: str) -> Callable[[Cpu], float]:
    return lambda cpu: cpu[one] / cpu[other]


def compared(name: str, other: type[Subject], goal: float | None = None, **load: object) -> Case:
    """A case with lonc and another subject under the same load."""
    sides = {"lonc": Side(Lonc, **load), other.name: Side(other, **load)}
    return Case(name, sides, ratio("lonc", other.name), goal)


def _size(count: int) -> str:
    for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
        if count >= unit:
            return f"{count // unit} {name}"
    return f"{count} B"


LARGE = {"loncMaxRequest": 64 * MIB}

TRANSACTION = [
    compared("50 clients", Relay, 1.25),
    compared("1 client", Relay, 1.2, clients=1),
    compared("50 clients, and HAProxy", HAProxy, 1.8),
    Case(
        "growth from 50 to 500 clients",
        {
            f"{subject.name} {clients}": Side(subject, clients=clients)
            for subject in (Lonc, Relay)
            for clients in (50, 500)
        },
        lambda cpu: cpu["lonc 500"] / cpu["lonc 50"] / (cpu["relay 500"] / cpu["relay 50"]),
        1.15,
    ),
]

CIPHER = [
    Case(
        "enciphered request and reply, 100 B",
        {"lonc enc": Side(Lonc, enciphered=True), "lonc": Side(Lonc)},
        ratio("lonc enc", "lonc"),
        1.5,
    ),
    Case(
        "enciphered reply, 1 MiB",
        {
            "lonc enc": Side(Lonc, clients=5, reply=MIB, enciphered=True),
            "cipher": BareCipher(MIB),
            "relay": Side(Relay, clients=5, reply=MIB),
        },
        lambda cpu: cpu["lonc enc"] / (cpu["cipher"] + cpu["relay"]),
        1.5,
    ),
]

LINES = [
    compared("reply of 10 MiB", Relay, 1.5, clients=5, reply=10 * MIB),
    *(
        compared(f"reply of {_size(size)}", Relay, clients=5, reply=size)
        for size in (1, KIB, 64 * KIB, MIB, 64 * MIB)
    ),
    *(
        compared(f"request of {_size(size)}", Relay, clients=5, request=size, reply=2, settings=LARGE)
        for size in (1, KIB, 64 * KIB, MIB, 10 * MIB, 64 * MIB)
    ),
]

GROWTH = [
    *(compared(f"{clients} clients", Relay, clients=clients) for clients in (1, 10, 100, 1000)),
    *(
        compared(f"{connections} connections", Relay, connections=connections)
        for connections in (1, 2, 10, 50)
    ),
    *(compared(f"{hosts} hosts", Relay, hosts=hosts, clients=hosts) for hosts in (1, 10, 100, 500)),
]
