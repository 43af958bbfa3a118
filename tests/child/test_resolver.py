"""Names are asked off the loop, by a real thread; who answers is played by the test."""

import resource
import socket
import threading

import pytest

from lonc.child.resolver import Resolver, fixed_address
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


def test_an_address_of_the_table_is_known():
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
