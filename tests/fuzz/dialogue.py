"""Lines from a lond to a LondProtocol, in any pieces and at any moment."""

from collections.abc import Callable
from dataclasses import dataclass

from lonc.errors import ProtocolError
from lonc.wire.cipher import LineCipher, shared_key
from lonc.wire.lond_protocol import TRANSITIONS, Event, LondProtocol, Opening, State, init

from .pieces import in_pieces

MAX_REPLY = 80
BUILD_KEY = b"54559A79EDEA097AD9ADB087C71818"
REQUESTS = [
    b"ping\n",
    b"encrypt:auth:topsecret\n",
    b"\n",
    b"encrypt:\n",
    b"enc:1:00\n",
    b"sethost:msul3:ping\n",
    b"sethost:msul3:encrypt:topsecret\n",
    b"x" * 100 + b"\n",
]

_AT_WORK = {State.IDLE, State.SENDING_REQUEST, State.RECEIVING_REPLY}
_HEARING = {state for state, event in TRANSITIONS if event is Event.LINE}


@dataclass(frozen=True)
class Beginning:
    """A way to begin a dialogue.

    - `answers`: the lines of a correct lond, up to the state Idle;
    - `said_by(heard)`: the lines that lonc may have sent once it has received the lines `heard`;
    - `cipher(heard)`: the cipher of both sides once lonc has received all of `heard`.
    """

    make: Callable[[], LondProtocol]
    answers: tuple[bytes, ...]
    said_by: Callable[[list[bytes]], list[bytes]]
    cipher: Callable[[list[bytes]], LineCipher]
    default: bytes = b""  # prefix of each request without a host id of its own

    def travels(self, request: bytes, cipher: Callable[[], LineCipher]) -> bytes:
        """The line that is sent for `request`."""
        prefix = self.default
        if request.startswith(b"sethost:"):
            _, id_, request = request.split(b":", 2)
            prefix = prefix and b"sethost:%b:" % id_
        if request.startswith(b"encrypt:"):
            request = bytes(cipher().encipher(request[len(b"encrypt:") : -1]))
        return prefix + request


LONGEST = 5  # lines that lond says in a dialogue
KEY = b"0123456789abcdef" * 2
INSECURE = (b"12345\n", b"ok\n", b"2.11\n", b"ok\n", BUILD_KEY + b"\n")


def _make(choose=init, several_ids=False):
    protocol = LondProtocol("msul1", "msua3", MAX_REPLY, choose, several_ids)
    protocol.connected("192.0.2.9")
    return protocol


def _insecure_said_by(first):
    def said_by(heard):
        said = [first, *heard[:1], *[b"version\n"] * (heard[1:2] == [b"ok\n"])]
        said += [b"sethost:msul1\n"] * (len(heard) > 2)
        return said + [b"ekey\n"] * (heard[3:4] in ([b"ok\n"], [b"unknown_cmd\n"]))

    return said_by


def _local_said_by(heard):
    first = b"init:local:/f:1\n"
    if heard[:1] != [b"ok:local\n"]:
        return _insecure_said_by(first)(heard)
    return [first, b"version\n", *[b"sethost:msul1\n"] * (len(heard) > 1)]


def _local_cipher(heard):
    if heard[0] == b"ok:local\n":
        return LineCipher(bytes.fromhex(KEY.decode()))
    return _insecure_cipher(heard)


def _insecure_cipher(heard):
    return LineCipher(shared_key("msul1", "msua3", heard[4]))


BEGINNINGS = [
    Beginning(
        _make,
        (b"12345\n", b"ok\n", BUILD_KEY + b"\n"),
        lambda heard: [b"init\n", *heard[:1], *[b"ekey\n"] * (heard[1:2] == [b"ok\n"])],
        lambda heard: LineCipher(shared_key("msul1", "msua3", heard[2])),
    ),
    Beginning(
        lambda: _make(lambda _: Opening("insecure", b"init::1\n"), several_ids=True),
        INSECURE,
        _insecure_said_by(b"init::1\n"),
        _insecure_cipher,
        b"sethost:msul1:",
    ),
    Beginning(
        lambda: _make(lambda _: Opening("local", b"init:local:/f:1\n", key=KEY)),
        (b"ok:local\n", b"2.11\n", b"ok\n"),
        _local_said_by,
        _local_cipher,
    ),
    Beginning(
        lambda: _make(lambda _: Opening("local", b"init:local:/f:1\n", key=KEY)),
        INSECURE,  # an old lond
        _local_said_by,
        _local_cipher,
    ),
]

WORDS = [
    b"\n", b"\r", b"\0", b"\xff", b"ok\n", b"ok", b"refused\n", b"rejected\n", b"12345\n", b"ok:local\n",
    b"ok:ssl\n", b"unknown_cmd\n", b"enc:",
    b"enc:0:", b"enc:1:", b"enc:999999999999999999:", b"2c38521fdc9c5b90", b"d748ad0476ddf4c5",
    b"x" * MAX_REPLY, BUILD_KEY + b"\n", b"0", b"A",
]  # fmt: skip


class _Talk:
    """Drives one dialogue as a LondConnection does, and checks each step."""

    def __init__(self, beginning):
        self.beginning = beginning
        self.protocol = beginning.make()
        self.received = b""  # all bytes from lond
        self.sent = b""  # all bytes from lonc
        self.requests = []
        self.answered = 0
        self.reply_start = 0  # offset of the next reply in `received`
        self.ended = False

    def send(self, size):
        protocol = self.protocol
        if not protocol.data_to_send or self.ended:
            return
        while protocol.data_to_send:
            piece = bytes(protocol.data_to_send[:size])
            self.sent += piece
            protocol.data_sent(len(piece))
        self.check_sent()

    def ask(self, request):
        self.requests.append(request)
        self.reply_start = len(self.received)
        self.protocol.start_request(request)

    def hear(self, piece):
        protocol, before = self.protocol, self.protocol.state
        self.received += piece
        try:
            reply, why = protocol.receive(piece), ""
        except ProtocolError as error:
            reply, why = None, str(error)
        if why:
            assert "topsecret" not in why
            assert (protocol.state, protocol.held) == (State.DISCONNECTED, 0)
            self.ended = True
            return
        assert not self.ended, "a disconnected protocol accepted more bytes"
        assert before in _HEARING
        assert protocol.held <= MAX_REPLY + len(piece) + len(protocol.data_to_send)
        if reply is None:
            assert before is not State.RECEIVING_REPLY or b"\n" not in piece
        else:
            self.check_reply(before, bytes(reply))
        assert before not in _AT_WORK or protocol.state in (*_AT_WORK, State.DISCONNECTED)
        self.ended = protocol.state is State.DISCONNECTED

    def check_reply(self, before, reply):
        assert before is State.RECEIVING_REPLY
        self.answered += 1
        assert self.answered == len(self.requests)
        line, _, behind = self.received[self.reply_start :].partition(b"\n")
        if line.startswith(b"enc:"):
            text = self.cipher().decipher(line + b"\n")
            assert (reply, text.count(b"\n")) == (text + b"\n", 0)
        else:
            assert reply == line + b"\n"
        assert len(line) <= MAX_REPLY
        assert self.protocol.state is (State.DISCONNECTED if behind else State.IDLE)

    def check_sent(self):
        """lonc has sent only its part of the dialogue, and then the requests, each once."""
        heard = [line + b"\n" for line in self.received.split(b"\n")[:-1]]
        due = b"".join(self.beginning.said_by(heard[:LONGEST]))
        for request in self.requests:
            due += self.beginning.travels(request, self.cipher)
        assert due.startswith(self.sent)
        assert self.sent.count(b"topsecret") == 0

    def cipher(self):
        heard = self.received.split(b"\n")[:LONGEST]
        return self.beginning.cipher([line + b"\n" for line in heard])


def dialogue(data):
    """Any bytes from lond, at any step, in any pieces, before or after lonc's own bytes have left.

    - The only exception is ProtocolError, its message contains no request, and the protocol stays
      disconnected after it.
    - lonc sends its part of the dialogue, and then the requests, each once.
    - A reply is one line, lond's first after the request was sent, deciphered if it was enciphered.
    - The bytes held stay within the limit.
    """
    beginning = BEGINNINGS[data[0] % len(BEGINNINGS)] if data else BEGINNINGS[0]
    talk = _Talk(beginning)
    correct = data[1] % (len(beginning.answers) + 1) if len(data) > 1 else 0
    for answer in beginning.answers[:correct]:
        talk.send(1 << 20)
        talk.hear(answer)
        assert not talk.ended
    for number, (piece, too_early, idle) in enumerate(in_pieces(data[2:])):
        if not too_early:
            talk.send(7)
        if talk.protocol.state is State.IDLE and not idle:
            talk.ask(REQUESTS[number % len(REQUESTS)])
            if not too_early:
                talk.send(1 + number)
        talk.hear(piece)
