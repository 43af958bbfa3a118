"""What a lond says to a LondProtocol, and when."""

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
    """A way to begin. `answers` are those of a lond that does all right, until the connection is Idle;
    `said_by(heard)` is what lonc may have said when it has heard these lines, and `cipher(heard)` is
    what both encipher with when they are all."""

    make: Callable[[], LondProtocol]
    answers: tuple[bytes, ...]
    said_by: Callable[[list[bytes]], list[bytes]]
    cipher: Callable[[list[bytes]], LineCipher]
    default: bytes = b""  # in front of each request that does not say for whom it is

    def travels(self, request: bytes, cipher: Callable[[], LineCipher]) -> bytes:
        """How a request leaves."""
        for_whom = self.default
        if request.startswith(b"sethost:"):
            _, id_, request = request.split(b":", 2)
            for_whom = for_whom and b"sethost:%b:" % id_
        if request.startswith(b"encrypt:"):
            request = bytes(cipher().encipher(request[len(b"encrypt:") : -1]))
        return for_whom + request


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
    """One dialogue, as a LondConnection would lead it."""

    def __init__(self, beginning):
        self.beginning = beginning
        self.protocol = beginning.make()
        self.told = b""  # all that lond has said
        self.said = b""  # all that lonc has
        self.requests = []
        self.answered = 0
        self.begun_at = 0  # where in what lond says the next reply begins
        self.ended = False

    def send(self, size):
        protocol = self.protocol
        if not protocol.data_to_send or self.ended:
            return
        while protocol.data_to_send:
            piece = bytes(protocol.data_to_send[:size])
            self.said += piece
            protocol.data_sent(len(piece))
        self.check_said()

    def ask(self, request):
        self.requests.append(request)
        self.begun_at = len(self.told)
        self.protocol.start_request(request)

    def hear(self, piece):
        protocol, before = self.protocol, self.protocol.state
        self.told += piece
        try:
            reply, why = protocol.receive(piece), ""
        except ProtocolError as error:
            reply, why = None, str(error)
        if why:
            assert "topsecret" not in why
            assert (protocol.state, protocol.held) == (State.DISCONNECTED, 0)
            self.ended = True
            return
        assert not self.ended, "it has come back"
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
        line, _, behind = self.told[self.begun_at :].partition(b"\n")
        if line.startswith(b"enc:"):
            text = self.cipher().decipher(line + b"\n")
            assert (reply, text.count(b"\n")) == (text + b"\n", 0)
        else:
            assert reply == line + b"\n"
        assert len(line) <= MAX_REPLY
        assert self.protocol.state is (State.DISCONNECTED if behind else State.IDLE)

    def check_said(self):
        """Nothing but its part, and then the requests, each once."""
        heard = [line + b"\n" for line in self.told.split(b"\n")[:-1]]
        due = b"".join(self.beginning.said_by(heard[:LONGEST]))
        for request in self.requests:
            due += self.beginning.travels(request, self.cipher)
        assert due.startswith(self.said)
        assert self.said.count(b"topsecret") == 0

    def cipher(self):
        heard = self.told.split(b"\n")[:LONGEST]
        return self.beginning.cipher([line + b"\n" for line in heard])


def dialogue(data):
    """Whatever lond says, at any step and in any pieces, before what lonc says has left or after:
    nothing but a ProtocolError; what has ended stays so; lonc says its part and then the requests, each
    once; a reply is one line, lond's first since the request has left, deciphered if it was enciphered;
    what is held passes no limit, and no error repeats a request."""
    beginning = BEGINNINGS[data[0] % len(BEGINNINGS)] if data else BEGINNINGS[0]
    talk = _Talk(beginning)
    right = data[1] % (len(beginning.answers) + 1) if len(data) > 1 else 0
    for answer in beginning.answers[:right]:
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
