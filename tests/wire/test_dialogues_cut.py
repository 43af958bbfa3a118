"""Each dialogue, with lond's data cut or ended after every byte (in TLS every seventh)."""

import itertools

import pytest
from support.certificates import Office
from support.dialogue import BUILD_KEY, insecure, local

from lonc.wire.lond_protocol import LondProtocol, Opening, State, init
from lonc.wire.tls import Tunnel, client_context, server_context

KEY = b"0123456789abcdef" * 2
ANSWERS = {
    b"init": b"12345",
    b"init::1": b"12345",
    b"init:local:/f:1": b"ok:local",
    b"init:ssl:1": b"ok:ssl",
    b"12345": b"ok",
    b"version": b"2.11.4",
    b"sethost:msul1": b"ok",
    b"ekey": BUILD_KEY.encode(),
    b"ping": b"msul1",
}


class Lond:
    """Answers line by line, and sends the key in TLS if the mode is ssl."""

    def __init__(self, context):
        self._context = context
        self._tunnel = None

    def hear(self, data):
        if self._tunnel is not None:
            clear = self._tunnel.receive(data)
            if not clear:
                return self._tunnel.data_to_send()
            self._tunnel, data = None, clear
        lines = data.splitlines()
        if lines[0] == b"init:ssl:1":
            self._tunnel = Tunnel(self._context, None, KEY)
        return b"".join(ANSWERS[line] + b"\n" for line in lines)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    office = Office(tmp_path_factory.mktemp("certificates"))
    files = office.issue("msul1.example")
    return client_context(files), server_context(files)


@pytest.fixture(params=["classic", "insecure", "local", "ssl"])
def mode(request):
    return request.param


@pytest.fixture
def start(mode, contexts):
    """A function that returns a protocol that begins in that mode, and its lond."""

    def ssl(_):
        return Opening("ssl", b"init:ssl:1\n", tunnel=Tunnel(contexts[0], "msul1.example"))

    ways = {"classic": init, "insecure": insecure, "local": local, "ssl": ssl}

    def start():
        protocol = LondProtocol("msul1", "msua3", 200, ways[mode])
        protocol.connected("192.0.2.9")
        return protocol, Lond(contexts[1])

    return start


def talk(protocol, lond, size, end=None):
    """Play lond's data in pieces of `size` bytes, up to byte `end`, until lonc sends no more."""
    said = b""
    while protocol.data_to_send and len(said) != end:
        data = bytes(protocol.data_to_send)
        protocol.data_sent(len(data))
        words = lond.hear(data)
        if end is not None:
            words = words[: end - len(said)]
        said += words
        for start in range(0, len(words), size):
            assert protocol.receive(words[start : start + size]) is None
    return said


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10**6])
def test_every_dialogue_reaches_idle_however_it_is_cut(start, mode, size):
    protocol, lond = start()
    talk(protocol, lond, size)
    assert protocol.state is State.IDLE
    assert protocol.mode == mode
    assert protocol.held == 0
    protocol.start_request(b"ping\n")
    protocol.data_sent(5)
    assert protocol.receive(lond.hear(b"ping\n")) == b"msul1\n"


def test_a_dialogue_that_ends_early_is_not_idle_and_holds_only_received_bytes(start, mode):
    last = BUILD_KEY.encode() + b"\n" if mode in ("classic", "insecure") else b"\nok\n"
    for end in itertools.count(step=7 if mode == "ssl" else 1):
        protocol, lond = start()
        said = talk(protocol, lond, 10**6, end)
        if len(said) < end or (said.endswith(last) and b"ok\n" in said):
            break  # (signatures vary in length)
        assert protocol.state is not State.IDLE
        assert len(protocol._lines) + len(protocol._tunnel or b"") <= end
        protocol.disconnect()
        assert protocol.state is State.DISCONNECTED
    assert protocol.state is State.IDLE
