"""Lookups in a real thread; the test plays the nameserver."""

import queue
import resource
import socket
import threading
import time

import pytest
from support.clock import FakeClock

from lonc.child.resolver import LATE_ANSWER_LASTS, PATIENCE, Resolver, fixed_address
from lonc.runtime.event_loop import EventLoop


@pytest.fixture
def loop():
    loop = EventLoop()
    yield loop
    loop.close()


def resolve(loop, name, port, ipv4_only, timeout=20.0, on_error=None):
    return Resolver(loop, name, port, ipv4_only, timeout, on_error)


def answers(loop, resolver, times=1):
    found = []
    for _ in range(times):
        resolver.find(lambda *answer: found.append(answer))
    assert found == []  # never at once
    while len(found) < times:
        loop.turn(10)
    return found


def test_an_address_of_the_table_needs_no_lookup():
    found = []
    fixed_address("127.0.0.2", 5663)(lambda *answer: found.append(answer))
    assert found == [([(socket.AF_INET, ("127.0.0.2", 5663))], "")]


def test_a_name_is_resolved(loop):
    (found,) = answers(loop, resolve(loop, "localhost", 5663, ipv4_only=True))
    assert found == ([(socket.AF_INET, ("127.0.0.1", 5663))], "")


def test_all_its_addresses_are_found_ipv6_too(loop, monkeypatch):
    def getaddrinfo(name, port, family, kind):
        assert (name, port, kind) == ("lond.example.org", 5663, socket.SOCK_STREAM)
        both = [
            (socket.AF_INET6, kind, 6, "", ("2001:db8::1", port, 0, 0)),
            (socket.AF_INET, kind, 6, "", ("192.0.2.1", port)),
        ]
        return [each for each in both if family in (socket.AF_UNSPEC, each[0])]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    v4 = (socket.AF_INET, ("192.0.2.1", 5663))
    v6 = (socket.AF_INET6, ("2001:db8::1", 5663, 0, 0))
    assert answers(loop, resolve(loop, "lond.example.org", 5663, False)) == [([v6, v4], "")]
    # Where connections must come from an IPv4 address, only such ones can be reached.
    assert answers(loop, resolve(loop, "lond.example.org", 5663, True)) == [([v4], "")]


def test_an_address_that_is_found_twice_is_tried_once(loop, monkeypatch):
    # glibc: "127.0.0.1 localhost" and "::1 localhost" in /etc/hosts are both 127.0.0.1 in IPv4.
    first, second = [(socket.AF_INET, (address, 5663)) for address in ("192.0.2.1", "192.0.2.2")]
    found = [(*each[:1], socket.SOCK_STREAM, 6, "", each[1]) for each in (second, first, second, first)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)
    assert answers(loop, resolve(loop, "lond.example.org", 5663, True)) == [([second, first], "")]


@pytest.mark.parametrize("name", ["no.such.name.invalid", "a" * 70 + ".org", "", "\0"])
def test_a_name_that_does_not_resolve_is_a_sentence(loop, name):
    ((addresses, why),) = answers(loop, resolve(loop, name, 5663, False))
    if name:
        assert addresses == []
        assert why.startswith(f"cannot resolve {name}: ")


def test_a_resolver_that_hangs_holds_one_thread_and_not_the_loop(loop, monkeypatch):
    free = threading.Event()
    asked = []

    def hang(name, *_):
        asked.append(name)
        free.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    resolver = resolve(loop, "lond.example.org", 5663, False)
    found = []
    for _ in range(5):
        resolver.find(lambda *answer: found.append(answer))
    called = []
    loop.after(0, lambda: called.append("the loop goes on"))
    while not called:
        loop.turn(10)
    assert found == []
    free.set()
    while len(found) < 5:
        loop.turn(10)
    assert asked == ["lond.example.org"]
    assert found[0] == ([], "cannot resolve lond.example.org: try again")
    assert len(answers(loop, resolver, times=2)) == 2  # and is asked again
    assert len(asked) == 2


def test_without_a_descriptor_or_a_thread_there_is_no_address(loop, monkeypatch):
    resolver = resolve(loop, "localhost", 5663, ipv4_only=True)
    found = []
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        resolver.find(lambda *answer: found.append(answer))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    loop.turn(10)
    assert found == [([], "cannot resolve localhost: [Errno 24] Too many open files")]
    with monkeypatch.context() as patch:

        def start(_):
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", start)
        ((addresses, why),) = answers(loop, resolver)
        assert (addresses, why) == ([], "cannot resolve localhost: can't start new thread")
    ((addresses, why),) = answers(loop, resolver)
    assert addresses


V4 = (socket.AF_INET, ("192.0.2.1", 5663))
OTHER = (socket.AF_INET, ("192.0.2.2", 5663))
NAME = "lond.example.org"
AGAIN = socket.gaierror(socket.EAI_AGAIN, "try again")
NO_NAME = socket.gaierror(socket.EAI_NONAME, "not known")


class Nameserver:
    """A Resolver with a fake clock, and a getaddrinfo that answers when the test calls for it."""

    def __init__(self):
        self.clock = FakeClock()
        self.loop = EventLoop(self.clock)
        self.errors = []
        self.resolver = Resolver(self.loop, NAME, 5663, False, 20.0, self.errors.append)
        self.lookups = 0
        self._answer = queue.SimpleQueue()

    def getaddrinfo(self, *_):
        self.lookups += 1
        answer = self._answer.get(timeout=30)
        if isinstance(answer, Exception):
            raise answer
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in answer]

    def find(self):
        """Start a lookup; returns a list to which its answer will be added."""
        found = []
        self.resolver.find(lambda *answer: found.append(answer))
        assert found == []
        return found

    def answer(self, *addresses, error=None):
        """End the lookup under way with this answer."""
        self._answer.put(error or list(addresses))
        deadline = time.monotonic() + 10
        while self.resolver._watch is not None:
            assert time.monotonic() < deadline
            self.loop.turn(0.1)

    def advance(self, seconds):
        self.clock.advance(seconds)
        self.loop.turn(0)
        self.loop.turn(0)

    def know(self, *addresses):
        """A lookup succeeds."""
        found = self.find()
        self.answer(*addresses)
        assert found == [(list(addresses), "")]


@pytest.fixture
def nameserver(monkeypatch):
    nameserver = Nameserver()
    monkeypatch.setattr(socket, "getaddrinfo", nameserver.getaddrinfo)
    yield nameserver
    if nameserver.resolver._watch is not None:
        nameserver.answer(error=NO_NAME)
    nameserver.loop.close()


class TestLookupsThatFail:
    def test_a_lookup_has_its_timeout(self, nameserver):
        found = nameserver.find()
        nameserver.advance(19.9)
        assert found == []
        nameserver.advance(0.2)
        assert found == [([], f"cannot resolve {NAME}: no answer within 20 s")]
        assert nameserver.errors == []  # there is no address to fall back on

    def test_each_attempt_has_its_own(self, nameserver):
        first = nameserver.find()
        nameserver.advance(10)
        second = nameserver.find()
        nameserver.advance(10.1)
        assert (len(first), len(second)) == (1, 0)
        nameserver.answer(V4)
        assert second == [([V4], "")]
        assert nameserver.lookups == 1

    def test_the_answer_of_the_second_nameserver_comes_in_time(self, nameserver):
        found = nameserver.find()
        nameserver.advance(5.008)
        nameserver.answer(V4)
        assert found == [([V4], "")]

    def test_an_answer_that_comes_too_late_is_used_by_the_next_attempt(self, nameserver):
        nameserver.find()
        nameserver.advance(20.1)
        nameserver.answer(V4)
        found = nameserver.find()
        nameserver.advance(0.1)
        assert found == [([V4], "")]
        assert nameserver.lookups == 1
        again = nameserver.find()  # by one attempt only: the name may have moved
        nameserver.answer(OTHER)
        assert again == [([OTHER], "")]

    def test_a_late_answer_is_used_for_a_minute(self, nameserver):
        nameserver.find()
        nameserver.advance(20.1)
        nameserver.answer(V4)
        nameserver.advance(LATE_ANSWER_LASTS + 1)
        found = nameserver.find()
        nameserver.answer(OTHER)
        assert found == [([OTHER], "")]

    def test_a_late_failure_is_no_answer(self, nameserver):
        nameserver.find()
        nameserver.advance(20.1)
        nameserver.answer(error=NO_NAME)
        found = nameserver.find()
        nameserver.answer(V4)
        assert found == [([V4], "")]

    def test_the_last_known_addresses_are_used_while_lookups_fail(self, nameserver):
        nameserver.know(V4)
        for _ in range(2):
            found = nameserver.find()
            nameserver.answer(error=AGAIN)
            assert found == [([V4], "")]
        why = f"cannot resolve {NAME}: try again; its last known addresses are used"
        assert nameserver.errors == [why, why]
        nameserver.know(OTHER)
        assert len(nameserver.errors) == 2

    def test_the_last_known_addresses_are_used_while_lookups_are_slow(self, nameserver):
        nameserver.know(V4)
        found = nameserver.find()
        nameserver.advance(PATIENCE - 0.1)
        assert found == []
        nameserver.advance(0.2)
        assert found == [([V4], "")]
        assert nameserver.errors == [
            f"cannot resolve {NAME}: no answer within 1.8 s; its last known addresses are used"
        ]

    def test_a_lookup_that_hangs_already_does_not_delay_the_next_attempt(self, nameserver):
        nameserver.know(V4)
        nameserver.find()
        nameserver.advance(PATIENCE + 1)
        found = nameserver.find()
        nameserver.advance(0.01)
        assert found == [([V4], "")]
        assert nameserver.lookups == 2

    def test_a_name_without_addresses_is_a_definite_answer(self, nameserver):
        nameserver.know(V4)
        for error in (NO_NAME, AGAIN):  # so the old address is not used afterwards either
            found = nameserver.find()
            nameserver.answer(error=error)
            assert found == [([], f"cannot resolve {NAME}: {error.strerror}")]
        assert nameserver.errors == []

    def test_without_a_thread_the_last_known_addresses_are_used(self, nameserver, monkeypatch):
        nameserver.know(V4)

        def start(_):
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        found = nameserver.find()
        nameserver.advance(0.1)
        assert found == [([V4], "")]
        assert len(nameserver.errors) == 1
