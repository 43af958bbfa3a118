"""Londs that misbehave in TLS: no request hangs, memory does not grow, and lonc does not spin."""

import contextlib
import os
import ssl
import time

import pytest
from support.certificates import Office, settings_for
from support.machine import peak_memory
from support.scripted_lond import ScriptedLond

from lonc.wire.tls import Tunnel, server_context

KEY = b"0123456789abcdef" * 2
HANDSHAKE = 0.6  # seconds


@pytest.fixture(scope="module")
def office(tmp_path_factory):
    return Office(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def context(office):
    return server_context(office.issue("l1.example.org"))


def agree(peer):
    """Speak the dialogue up to lonc's ClientHello, and return that."""
    heard = peer.hear()
    if heard is None:
        raise ConnectionResetError("lonc left during the dialogue")
    assert heard.startswith(b"init:ssl:")
    peer.say(b"ok:ssl")
    return peer.socket.recv(65536)


def silent(peer, context, hello):
    peer.hear()


def garbage(peer, context, hello):
    peer.socket.sendall(os.urandom(100_000))


def a_record_without_end(peer, context, hello):
    peer.socket.sendall(b"\x16\x03\x03\x40\x00" + b"x" * 16000)
    peer.hear()


def too_long_a_record(peer, context, hello):
    peer.socket.sendall(b"\x16\x03\x03\xff\xff" + b"x" * 70_000)


def byte_by_byte(peer, context, hello):
    tunnel = Tunnel(context, None, KEY)
    tunnel.receive(hello)
    for byte in tunnel.data_to_send():
        peer.socket.sendall(bytes([byte]))
        time.sleep(0.05)


def warnings_without_end(peer, context, hello):
    while True:
        peer.socket.sendall(b"\x15\x03\x03\x00\x02\x01\x5a" * 1000)


def fragments_without_end(peer, context, hello):
    """The start of a ServerHello with a stated length of 16 MiB."""
    peer.socket.sendall(b"\x16\x03\x03\x00\x04\x02\xff\xff\xff")
    while True:
        peer.socket.sendall(b"\x16\x03\x03\x40\x00" + b"x" * 16384)


class Through:
    """A correct handshake; then `speak` continues in TLS."""

    def __init__(self, speak):
        self.speak = speak
        self.__name__ = speak.__name__

    def __call__(self, peer, context, hello):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        incoming.write(hello)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                peer.socket.sendall(outgoing.read())
                incoming.write(peer.socket.recv(65536))
            else:
                break
        for text in self.speak():
            tls.write(text)
            peer.socket.sendall(outgoing.read())


@Through
def no_key_but_much_else():
    while True:
        yield b"x" * 16384


@Through
def a_key_and_much_else():
    yield KEY + b"\n"
    while True:
        yield b"x" * 16384


@Through
def half_a_key():
    yield KEY[:16]


@Through
def letters_for_a_key():
    yield b"g" * 32 + b"\n"


HOSTILE = [
    silent,
    garbage,
    a_record_without_end,
    too_long_a_record,
    byte_by_byte,
    warnings_without_end,
    fragments_without_end,
    no_key_but_much_else,
    a_key_and_much_else,
    half_a_key,
    letters_for_a_key,
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda each: each.__name__)
def test_a_lond_that_is_hostile_in_tls(machine, office, context, hostile):
    def script(peer):
        hello = agree(peer)
        with contextlib.suppress(OSError):
            hostile(peer, context, hello)

    machine.configure(
        loncKeyMode="ssl",
        loncHandshakeTimeout=HANDSHAKE,
        loncRetryDelay="0.1",
        loncRetryMaxDelay="0.2",
        **settings_for(office.issue("a1.example.org")),
    )
    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        child = machine.children()["l1"]
        for _ in range(3):
            begun = time.monotonic()
            assert machine.ask(b"secret") == b"con_lost"
            assert time.monotonic() - begun < 10  # the default of loncHandshakeTimeout
        assert machine.children()["l1"] == child  # it has not crashed
        assert peak_memory(child) < 64 << 20
        last = machine.status()["last_error"][1]
        assert any(
            reason in last
            for reason in (
                "no end of the dialogue within 0.6 s: ReceivingKeyInTLS",
                "no end of the dialogue within 0.6 s: ReadingVersionString",
                "the data is not TLS",
                "longer than TLS allows",
                "TLS failed",
                "the key in TLS is not a line of 32 hex digits",
                "the key is not 32 hex digits",
                "lond closed the connection in state ReceivingKeyInTLS",
                "Connection reset by peer in state ReceivingKeyInTLS",
                "the host is DEAD",
            )
        ), last
    for word in ("crash", "Traceback", "secret"):
        assert word not in machine.log()
