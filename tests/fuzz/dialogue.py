"""What a lond says to a LondProtocol, and when."""

from collections.abc import Callable
from dataclasses import dataclass

from lonc.cipher import LineCipher, shared_key
from lonc.errors import ProtocolError
from lonc.lond_protocol import TRANSITIONS, Event, LondProtocol, State

from .pieces import in_pieces

MAX_REPLY = 80
BUILD_KEY = b"54559A79EDEA097AD9ADB087C71818"
REQUESTS = [
    b"ping\n",
    b"encrypt:auth:topsecret\n",
    b"\n",
    b"encrypt:\n",
    b"enc:1:00\n",
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


BEGINNINGS = [
    Beginning(
        lambda: LondProtocol("msul1", "msua3", MAX_REPLY),
        (b"12345\n", b"ok\n", BUILD_KEY + b"\n"),
        lambda heard: [b"init\n", *heard[:1], *[b"ekey\n"] * (heard[1:2] == [b"ok\n"])],
        lambda heard: LineCipher(shared_key("msul1", "msua3", heard[2])),
    ),
]

WORDS = [
    b"\n", b"\r", b"\0", b"\xff", b"ok\n", b"ok", b"refused\n", b"rejected\n", b"12345\n", b"enc:",
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
        due = b"".join(self.beginning.said_by(heard[: len(self.beginning.answers)]))
        for request in self.requests:
            if request.startswith(b"encrypt:"):
                request = bytes(self.cipher().encipher(request[len(b"encrypt:") : -1]))
            due += request
        assert due.startswith(self.said)
        assert self.said.count(b"topsecret") == 0

    def cipher(self):
        heard = self.told.split(b"\n")[: len(self.beginning.answers)]
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
