"""Drives a LondProtocol by a script of the dialogue, or up to any of its states."""

import itertools

import pytest

from lonc.errors import ProtocolError
from lonc.wire.cipher import LineCipher, shared_key
from lonc.wire.lond_protocol import LondProtocol, Opening, State, init

BUILD_KEY = "54559A79EDEA097AD9ADB087C71818"
CIPHER = LineCipher(shared_key("msul1", "msua3", BUILD_KEY.encode() + b"\n"))
MAX_REPLY = 200

UP_TO_EKEY = """
    > init
    < 1050634236
    > 1050634236
    < ok
    > ekey
"""

HANDSHAKE = f"""
    {UP_TO_EKEY}
    < {BUILD_KEY}
"""


class Talk:
    """Plays a script, one line each:

    - `> ` a line from lonc, `< ` a line from lond;
    - `? ` a client's request, `= ` the reply it gets; `& ` one that is checked;
    - `! ` the ProtocolError that ends the dialogue (a regular expression).

    Consecutive lines from lond arrive in chunks of `size` bytes.
    """

    def __init__(self, size, choose=init, **options):
        self.size = size
        self.protocol = LondProtocol("msul1", "msua3", MAX_REPLY, choose, **options)
        self.protocol.connected("192.0.2.9")
        self.replies = []

    def play(self, script):
        lines = [line.strip().encode() for line in script.splitlines() if line.strip()]
        for kind, group in itertools.groupby(lines, key=lambda line: line[:1]):
            texts = [line[2:] for line in group]
            if kind == b"<":
                self.pending = b"".join(text + b"\n" for text in texts)
                if not self.next_is_error(lines, texts):
                    self.arrive()
            elif kind == b"!":
                with pytest.raises(ProtocolError, match=texts[0].decode()):
                    self.arrive()
                assert self.protocol.state is State.DISCONNECTED
            elif kind == b">":
                assert self.sent() == b"".join(text + b"\n" for text in texts)
            elif kind == b"?":
                self.protocol.start_request(texts[0] + b"\n")
            elif kind == b"&":
                self.protocol.start_checked_request(texts[0] + b"\n")
            elif kind == b"=":
                assert self.replies == [text + b"\n" for text in texts]
                self.replies = []
        return self.protocol

    def next_is_error(self, lines, texts):
        after = lines.index(b"< " + texts[-1]) + 1
        return after < len(lines) and lines[after].startswith(b"!")

    def arrive(self):
        data, self.pending = self.pending, b""
        for start in range(0, len(data), self.size):
            reply = self.protocol.receive(data[start : start + self.size])
            if reply is not None:
                self.replies.append(reply)

    def sent(self):
        out = b""
        while data := bytes(self.protocol.data_to_send)[: self.size]:
            out += data
            self.protocol.data_sent(len(data))
        return out


def local(_):
    return Opening("local", b"init:local:/f:1\n", key=b"0123456789abcdef" * 2)


def insecure(_):
    return Opening("insecure", b"init::1\n")


class RejectingTunnel:
    """A tunnel without a handshake: it sends one message and rejects every answer."""

    key = None

    def __len__(self):
        return 0

    def begin(self):
        pass

    def data_to_send(self):
        return b"hello"

    def receive(self, data):
        raise ProtocolError("the data is not TLS")


def ssl(_):
    return Opening("ssl", b"init:ssl:1\n", tunnel=RejectingTunnel())


def reach(state, size=10**6):
    """A Talk whose protocol has reached that state through the dialogue."""
    if state is State.RECEIVING_KEY_IN_TLS:
        talk = Talk(size, ssl)
        talk.play("""
            > init:ssl:1
            < ok:ssl
        """)
        assert talk.sent() == b"hello"
        return talk
    if state in (
        State.REQUESTING_VERSION,
        State.READING_VERSION_STRING,
        State.SET_HOST,
        State.HOST_SET,
    ):
        return follow(Talk(size, local), LOCAL_STEPS, state)
    if state in PING_STEPS:
        talk = follow(Talk(size, learn_ping=True), CLASSIC_STEPS, State.RECEIVING_KEY)
        return follow(talk, PING_STEPS, state)
    return follow(Talk(size), CLASSIC_STEPS, state)


def follow(talk, steps, state):
    for reached, step in steps.items():
        step(talk)
        assert talk.protocol.state is reached
        if reached is state:
            return talk
    raise AssertionError(state)


def received(line):
    return lambda talk: talk.protocol.receive(line)


LOCAL_STEPS = {
    State.CONNECTED: lambda talk: None,
    State.INITIALIZED: Talk.sent,
    State.REQUESTING_VERSION: received(b"ok:local\n"),
    State.READING_VERSION_STRING: Talk.sent,
    State.SET_HOST: received(b"2.11.4\n"),
    State.HOST_SET: Talk.sent,
    State.IDLE: received(b"ok\n"),
}

PONG = b"msul1\n"


def learn_and_check(talk):
    talk.protocol.receive(PONG)
    talk.protocol.start_checked_request(b"load\n")


PING_STEPS = {
    State.REQUESTING_PING: received(BUILD_KEY.encode() + b"\n"),
    State.RECEIVING_PING: Talk.sent,
    State.SENDING_CHECKED_REQUEST: learn_and_check,
    State.RECEIVING_CHECK: Talk.sent,
}

CLASSIC_STEPS = {
    State.CONNECTED: lambda talk: None,
    State.INITIALIZED: Talk.sent,
    State.CHALLENGE_RECEIVED: received(b"12345\n"),
    State.CHALLENGE_REPLIED: Talk.sent,
    State.REQUESTING_KEY: received(b"ok\n"),
    State.RECEIVING_KEY: Talk.sent,
    State.IDLE: received(BUILD_KEY.encode() + b"\n"),
    State.SENDING_REQUEST: lambda talk: talk.protocol.start_request(b"ping\n"),
    State.RECEIVING_REPLY: Talk.sent,
    State.DISCONNECTED: lambda talk: talk.protocol.disconnect(),
}
