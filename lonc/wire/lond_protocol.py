"""What lonc and lond say to each other, free of sockets (protocol of 2003, and that of LON-CAPA 1.3).

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

The later dialogue begins in one of three ways. lonc has written a key into a file that only they can
read, on the machine of both; or the key is said in TLS; or it is as above (insecure):

    init:local:FILE:VERSION                                Connected
                             ok:local                      Initialized

    init:ssl:VERSION                                       Connected
                             ok:ssl                        Initialized
    TLS: the handshake       the handshake, the key        ReceivingKeyInTLS

    init::VERSION                                          Connected
                             the challenge, and so on, up to ok

and then goes on with

    version                                                RequestingVersion
                             lond's version                ReadingVersionString
    sethost:ID                                             SetHost
                             ok                            HostSet
    ekey                     the build key, where there is no key yet
                                                           Idle

A lond that does not know the way in which lonc has begun answers with the challenge.

A request that starts with `encrypt:`, or with `sethost:ID:encrypt:`, goes out without that word and
enciphered; a reply that starts with `enc:` is deciphered. Whatever else arrives, at whatever other time,
ends the connection: a line that nobody asked for would be the next client's reply.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from lonc.configuration import CLASSIC, INSECURE
from lonc.errors import ProtocolError
from lonc.runtime.line_buffer import Line, LineBuffer, LineTooLong
from lonc.wire.cipher import LineCipher, shared_key

ENCRYPT = b"encrypt:"
SET_HOST = b"sethost:"  # and an id, and a colon
_MARKS = (ENCRYPT, SET_HOST)
_REFUSALS = (b"refused\n", b"rejected\n")
LONGEST_VERSION = 80  # bytes of lond's version that are kept


class State(str, Enum):
    """Named as the original names them. (A str, since Enum's own hash is slow and every line asks.)"""

    CONNECTED = "Connected"
    INITIALIZED = "Initialized"
    CHALLENGE_RECEIVED = "ChallengeReceived"
    CHALLENGE_REPLIED = "ChallengeReplied"
    REQUESTING_KEY = "RequestingKey"
    RECEIVING_KEY = "ReceivingKey"
    RECEIVING_KEY_IN_TLS = "ReceivingKeyInTLS"
    REQUESTING_VERSION = "RequestingVersion"
    READING_VERSION_STRING = "ReadingVersionString"
    SET_HOST = "SetHost"
    HOST_SET = "HostSet"
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
    # What a line turned out to mean, where there is more than one way to go on.
    CHALLENGE = "a challenge"
    LOCAL = "the key file is taken"
    SSL = "TLS begins"
    KEY = "a key in TLS"
    CLASSIC_OK = "accepted, in the dialogue of 2003"
    LATER_OK = "accepted, in the later dialogue"
    KEYLESS = "the host is set, and there is no key"
    KEYED = "the host is set, and there is a key"


# Looked up once: an Enum takes longer to find its member than the table to find its row.
_REQUEST, _SENT, _LINE, _END = list(Event)[:4]


class Tunnel(Protocol):
    """What the dialogue asks of TLS."""

    key: bytes | None  # 32 hex digits, once it was heard

    def __len__(self) -> int: ...
    def begin(self) -> None: ...
    def data_to_send(self) -> bytes: ...
    def receive(self, data: bytes) -> bytes: ...


def _nothing() -> None:
    """What is to be done where nothing is."""


@dataclass(frozen=True)
class Opening:
    """How a connection is to begin: `mode` is one of `loncKeyMode`, `line` what lonc says first.

    `key`, in hex, is that of local mode, `tunnel` is for ssl; `on_key_exchange_ended()` is called once
    the key exchange has succeeded or failed.
    """

    mode: str
    line: bytes
    key: bytes | None = None
    tunnel: Tunnel | None = None
    insecure_fallback: bool = True  # if lond does not know that mode
    on_key_exchange_ended: Callable[[], None] = _nothing


INIT = Opening(CLASSIC, b"init\n")


def init(_: str) -> Opening:
    """The dialogue of 2003, whoever the other side is."""
    return INIT


class LondProtocol:
    """One connection's side of the dialogue.

    `server_id` is lond's host id, `client_id` that of this machine; `max_reply` is in bytes, without
    the newline; `choose(address)` says how to begin with a lond that is there, and may raise
    ProtocolError. A lond that has `several` ids is told with each request for whom it is: for
    `server_id`, unless the request says so itself by `sethost:ID:` in front. Every method that raises
    ProtocolError leaves the protocol Disconnected.
    """

    __slots__ = (
        "_choose",
        "_cipher",
        "_client_id",
        "_default",
        "_lines",
        "_opening",
        "_server_id",
        "_tunnel",
        "data_to_send",
        "lond_version",
        "mode",
        "state",
        "tls_alert",
    )

    def __init__(
        self,
        server_id: str,
        client_id: str,
        max_reply: int,
        choose: Callable[[str], Opening] = init,
        several_ids: bool = False,
    ) -> None:
        self.state = State.CONNECTED
        self.mode = CLASSIC  # one of loncKeyMode, but auto
        self.tls_alert = b""  # what tells lond why, where TLS has failed
        self.lond_version: str | None = None  # as it says
        self._server_id = server_id
        self._client_id = client_id
        self._choose = choose
        self._default = f"sethost:{server_id}:".encode() if several_ids else b""
        self._opening = INIT
        self._cipher: LineCipher | None = None
        self._tunnel: Tunnel | None = None  # while what comes may be TLS
        self._lines = LineBuffer(max_reply)
        self.data_to_send: Line | memoryview = b""

    @property
    def held(self) -> int:
        """Bytes of what is still to be sent, and of a line that has not all come."""
        tls = 0 if self._tunnel is None else len(self._tunnel)
        return len(self.data_to_send) + len(self._lines) + tls

    def connected(self, address: str) -> None:
        """lond is there, at that address: now there is something to be sent. Raises ProtocolError."""
        try:
            self._opening = self._choose(address)
        except ProtocolError as error:
            raise self._broken(str(error)) from None
        self.mode = self._opening.mode
        self.data_to_send = self._opening.line

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
        if self._tunnel is not None and not (data := self._receive_tls(self._tunnel, data)):
            return None
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

    def _unwelcome(self, to: str, answer: Line, instead: str = "") -> ProtocolError:
        return self._broken(f"lond answered {to} with {bytes(answer[:80])!r}{instead}")

    def _over(self) -> None:
        """The key is agreed upon, or never will be."""
        opening, self._opening = self._opening, INIT
        opening.on_key_exchange_ended()

    def _receive_tls(self, tunnel: Tunnel, data: bytes) -> bytes:
        """What lies behind TLS, which is done then."""
        try:
            clear = tunnel.receive(data)
        except ProtocolError as error:
            self.tls_alert = tunnel.data_to_send()
            raise self._broken(str(error)) from None
        if out := tunnel.data_to_send():
            self.data_to_send = bytes(self.data_to_send) + out
        if self.state is State.RECEIVING_KEY_IN_TLS and tunnel.key is not None:
            self._step(Event.KEY, tunnel.key)
        if clear:
            self._tunnel = None
        return clear

    # The actions, in the order of the dialogue.

    def _hear_answer(self, answer: Line) -> None:
        opening = self._opening
        asked_for = opening.key is not None or opening.tunnel is not None  # another way than the old
        if opening.key is not None and answer == b"ok:local\n":
            self._step(Event.LOCAL, opening.key)
        elif opening.tunnel is not None and answer == b"ok:ssl\n":
            self._step(Event.SSL)
        elif answer in _REFUSALS or (asked_for and not answer[:-1].isdigit()):
            said = b":".join(opening.line.split(b":")[:2]).decode().rstrip(":\n")
            raise self._unwelcome(said, answer)
        elif not opening.insecure_fallback:
            raise self._broken("lond knows only the insecure dialogue, and loncAllowInsecure is 0")
        else:
            self._step(Event.CHALLENGE, answer)

    def _echo_challenge(self, challenge: Line) -> None:
        if self.mode != CLASSIC:
            self.mode = INSECURE
        self._over()
        self.data_to_send = challenge

    def _hear_verdict(self, answer: Line) -> None:
        if answer != b"ok\n":
            raise self._unwelcome("the challenge", answer, ", not ok")
        self._step(Event.CLASSIC_OK if self.mode == CLASSIC else Event.LATER_OK)

    def _begin_tls(self, _: Line) -> None:
        tunnel = self._tunnel = self._opening.tunnel
        assert tunnel is not None
        tunnel.begin()
        self.data_to_send = tunnel.data_to_send()

    def _take_key(self, key: Line) -> None:
        """It is as good as agreed upon: `key` is 32 hex digits, if lond is honest."""
        self._over()
        if not _KEY.fullmatch(key):
            raise self._broken("what should be the key has other than 32 hex digits")
        self._cipher = LineCipher(bytes.fromhex(key.decode()))
        self._request_version()

    def _request_version(self, _: Line = b"") -> None:
        self.data_to_send = bytes(self.data_to_send) + b"version\n"

    def _set_host(self, version: Line) -> None:
        if version in _REFUSALS:
            raise self._unwelcome("version", version)
        said = bytes(version[:LONGEST_VERSION]).rstrip(b"\n")
        self.lond_version = repr(said)[2:-1]  # it is shown on terminals
        self.data_to_send = f"sethost:{self._server_id}\n".encode()

    def _hear_host_set(self, answer: Line) -> None:
        # (A lond that is older than the word serves one host alone.)
        if answer not in (b"ok\n", b"unknown_cmd\n"):
            raise self._unwelcome("sethost", answer, ", not ok")
        self._step(Event.KEYLESS if self._cipher is None else Event.KEYED)

    def _request_key(self, _: Line) -> None:
        self.data_to_send = b"ekey\n"

    def _take_build_key(self, build_key: Line) -> None:
        try:
            key = shared_key(self._server_id, self._client_id, bytes(build_key))
        except ProtocolError as error:
            raise self._broken(str(error)) from None
        self._cipher = LineCipher(key)

    def _send_request(self, request: Line) -> None:
        if self._default or request.startswith(_MARKS):
            request = self._marked(request)
        self.data_to_send = request

    def _marked(self, request: Line) -> Line:
        """What stands in front of a request is not as it travels: for whom it is, and that it is to be
        enciphered."""
        for_whom = self._default
        if request.startswith(SET_HOST):
            end = request.index(b":", len(SET_HOST)) + 1
            if for_whom:
                for_whom = bytes(request[:end])
            request = request[end:]
        if request.startswith(ENCRYPT):
            assert self._cipher is not None
            request = self._cipher.encipher(request[len(ENCRYPT) : -1])
        return for_whom + request if for_whom else request

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

    def _forget(self, _: Line) -> None:
        """Hold nothing: whoever still refers to us may do so until the collector of cycles comes."""
        self._over()
        self._tunnel = None
        self._lines = LineBuffer(0)
        self.data_to_send = b""


_KEY = re.compile(rb"[0-9A-Fa-f]{32}")

Action = Callable[[LondProtocol, Line], Line | None]

_S, _E, _P = State, Event, LondProtocol

# (state, event): (action, next state). What is not here is an error.
# fmt: off
TRANSITIONS: dict[tuple[State, Event], tuple[Action | None, State]] = {
    (_S.CONNECTED,              _E.SENT):       (None,                _S.INITIALIZED),
    (_S.INITIALIZED,            _E.LINE):       (_P._hear_answer,     _S.INITIALIZED),
    (_S.INITIALIZED,            _E.CHALLENGE):  (_P._echo_challenge,  _S.CHALLENGE_RECEIVED),
    (_S.INITIALIZED,            _E.LOCAL):      (_P._take_key,        _S.REQUESTING_VERSION),
    (_S.INITIALIZED,            _E.SSL):        (_P._begin_tls,       _S.RECEIVING_KEY_IN_TLS),
    (_S.CHALLENGE_RECEIVED,     _E.SENT):       (None,                _S.CHALLENGE_REPLIED),
    (_S.CHALLENGE_REPLIED,      _E.LINE):       (_P._hear_verdict,    _S.CHALLENGE_REPLIED),
    (_S.CHALLENGE_REPLIED,      _E.CLASSIC_OK): (_P._request_key,     _S.REQUESTING_KEY),
    (_S.CHALLENGE_REPLIED,      _E.LATER_OK):   (_P._request_version, _S.REQUESTING_VERSION),
    (_S.RECEIVING_KEY_IN_TLS,   _E.SENT):       (None,                _S.RECEIVING_KEY_IN_TLS),
    (_S.RECEIVING_KEY_IN_TLS,   _E.KEY):        (_P._take_key,        _S.REQUESTING_VERSION),
    (_S.REQUESTING_VERSION,     _E.SENT):       (None,                _S.READING_VERSION_STRING),
    (_S.READING_VERSION_STRING, _E.LINE):       (_P._set_host,        _S.SET_HOST),
    (_S.SET_HOST,               _E.SENT):       (None,                _S.HOST_SET),
    (_S.HOST_SET,               _E.LINE):       (_P._hear_host_set,   _S.HOST_SET),
    (_S.HOST_SET,               _E.KEYLESS):    (_P._request_key,     _S.REQUESTING_KEY),
    (_S.HOST_SET,               _E.KEYED):      (None,                _S.IDLE),
    (_S.REQUESTING_KEY,         _E.SENT):       (None,                _S.RECEIVING_KEY),
    (_S.RECEIVING_KEY,          _E.LINE):       (_P._take_build_key,  _S.IDLE),
    (_S.IDLE,                   _E.REQUEST):    (_P._send_request,    _S.SENDING_REQUEST),
    (_S.SENDING_REQUEST,        _E.SENT):       (None,                _S.RECEIVING_REPLY),
    (_S.RECEIVING_REPLY,        _E.LINE):       (_P._take_reply,      _S.IDLE),
    **{(state, _E.END): (_P._forget, _S.DISCONNECTED) for state in State},
}
# fmt: on

_LISTENING = frozenset(state for state, event in TRANSITIONS if event is Event.LINE)
