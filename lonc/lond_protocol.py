"""What lonc and lond say to each other, free of sockets (protocol of 2003).

    lonc                     lond                          lonc's state
    ----------------------------------------------------------------------
    init                                                   Connected
                             the challenge, one line       Initialized
    the challenge                                          ChallengeReceived
                             ok                            ChallengeReplied
    ekey                                                   RequestingKey
                             the build key, in hex         ReceivingKey
                                                           Idle
    a request, one line                                    SendingRequest
                             the reply, one line           ReceivingReply
                                                           Idle …

A request that starts with `encrypt:` goes out without that word and enciphered; a reply that starts
with `enc:` is deciphered. Whatever else arrives, at whatever other time, ends the connection: a line
that nobody asked for would be the next client's reply.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from lonc.cipher import LineCipher, shared_key
from lonc.errors import LineTooLong, ProtocolError
from lonc.line_buffer import Line, LineBuffer

ENCRYPT = b"encrypt:"


class State(str, Enum):
    """Named as the original names them. (A str, since Enum's own hash is slow and every line asks.)"""

    CONNECTED = "Connected"
    INITIALIZED = "Initialized"
    CHALLENGE_RECEIVED = "ChallengeReceived"
    CHALLENGE_REPLIED = "ChallengeReplied"
    REQUESTING_KEY = "RequestingKey"
    RECEIVING_KEY = "ReceivingKey"
    IDLE = "Idle"
    SENDING_REQUEST = "SendingRequest"
    RECEIVING_REPLY = "ReceivingReply"
    DISCONNECTED = "Disconnected"


class Event(str, Enum):
    """What moves a connection from state to state."""

    REQUEST = "a request"
    SENT = "all is sent"
    LINE = "a line"
    END = "the end"


# Looked up once: an Enum takes longer to find its member than the table to find its row.
_REQUEST, _SENT, _LINE, _END = Event


class LondProtocol:
    """One connection's side of the dialogue; starts with `init` to be sent.

    `server_id` is lond's host id, `client_id` that of this machine; `max_reply` is in bytes, without
    the newline. Every method that raises ProtocolError leaves the protocol Disconnected.
    """

    __slots__ = ("_cipher", "_client_id", "_lines", "_server_id", "data_to_send", "state")

    def __init__(self, server_id: str, client_id: str, max_reply: int) -> None:
        self.state = State.CONNECTED
        self._server_id = server_id
        self._client_id = client_id
        self._cipher: LineCipher | None = None
        self._lines = LineBuffer(max_reply)
        self.data_to_send: Line | memoryview = b"init\n"

    @property
    def held(self) -> int:
        """Bytes of what is still to be sent, and of a line that has not all come."""
        return len(self.data_to_send) + len(self._lines)

    def start_request(self, request: Line) -> None:
        """Make `request`, a line, the next thing to send; only an Idle connection takes one."""
        self._step(_REQUEST, request)

    def data_sent(self, count: int) -> None:
        if count == len(self.data_to_send):
            self.data_to_send = b""
            self._step(_SENT)
        else:
            self.data_to_send = memoryview(self.data_to_send)[count:]

    def receive(self, data: bytes) -> Line | None:
        """Take what lond sent; returns the reply, a line, if `data` brought its end.

        A line may be surplus to the reply. Then the reply still counts, and the protocol is
        Disconnected. Raises ProtocolError for everything else that the dialogue does not allow.
        """
        if self.state not in _LISTENING:
            raise self._broken(f"lond spoke unasked in state {self.state.value}")
        lines = self._lines
        try:
            line = lines.next_line(data)
        except LineTooLong as error:
            raise self._broken(f"lond sent {error}") from None
        if line is None:
            return None
        reply = self._step(_LINE, line)
        if lines.rest:
            if reply is None:
                raise self._broken("lond said more than was due")
            self.disconnect()
        return reply

    def disconnect(self) -> None:
        """The connection has ended, for whatever reason."""
        self._step(_END)

    def _step(self, event: Event, line: Line = b"") -> Line | None:
        """The one place that writes the state."""
        try:
            action, self.state = TRANSITIONS[self.state, event]
        except KeyError:
            raise AssertionError(f"{event.value} in state {self.state.value}") from None
        return None if action is None else action(self, line)

    def _broken(self, why: str) -> ProtocolError:
        self.disconnect()
        return ProtocolError(why)

    # The actions, in the order of the dialogue.

    def _echo_challenge(self, challenge: Line) -> None:
        if challenge in (b"refused\n", b"rejected\n"):
            raise self._broken(f"lond answered init with {bytes(challenge)!r}")
        self.data_to_send = challenge

    def _request_key(self, answer: Line) -> None:
        if answer != b"ok\n":
            raise self._broken(f"lond answered the challenge with {bytes(answer[:80])!r}, not ok")
        self.data_to_send = b"ekey\n"

    def _take_build_key(self, build_key: Line) -> None:
        try:
            key = shared_key(self._server_id, self._client_id, bytes(build_key))
        except ProtocolError as error:
            raise self._broken(str(error)) from None
        self._cipher = LineCipher(key)

    def _send_request(self, request: Line) -> None:
        if request.startswith(ENCRYPT):
            assert self._cipher is not None
            request = self._cipher.encipher(request[len(ENCRYPT) : -1])
        self.data_to_send = request

    def _take_reply(self, reply: Line) -> Line:
        if not reply.startswith(b"enc:"):
            return reply
        assert self._cipher is not None
        try:
            text = self._cipher.decipher(reply)
        except ProtocolError as error:
            raise self._broken(f"lond sent {error}") from None
        if b"\n" in text:
            raise self._broken("lond sent an enc: line with a newline in it")
        text += b"\n"
        return text


Action = Callable[[LondProtocol, Line], Line | None]

# (state, event): (action, next state). What is not here is an error.
# fmt: off
TRANSITIONS: dict[tuple[State, Event], tuple[Action | None, State]] = {
    (State.CONNECTED,          Event.SENT):    (None,                         State.INITIALIZED),
    (State.INITIALIZED,        Event.LINE):    (LondProtocol._echo_challenge, State.CHALLENGE_RECEIVED),
    (State.CHALLENGE_RECEIVED, Event.SENT):    (None,                         State.CHALLENGE_REPLIED),
    (State.CHALLENGE_REPLIED,  Event.LINE):    (LondProtocol._request_key,    State.REQUESTING_KEY),
    (State.REQUESTING_KEY,     Event.SENT):    (None,                         State.RECEIVING_KEY),
    (State.RECEIVING_KEY,      Event.LINE):    (LondProtocol._take_build_key, State.IDLE),
    (State.IDLE,               Event.REQUEST): (LondProtocol._send_request,   State.SENDING_REQUEST),
    (State.SENDING_REQUEST,    Event.SENT):    (None,                         State.RECEIVING_REPLY),
    (State.RECEIVING_REPLY,    Event.LINE):    (LondProtocol._take_reply,     State.IDLE),
    **{(state, Event.END): (None, State.DISCONNECTED) for state in State},
}
# fmt: on

_LISTENING = frozenset(state for state, event in TRANSITIONS if event is Event.LINE)
