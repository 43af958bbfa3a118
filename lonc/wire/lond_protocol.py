"""The dialogue of lonc and lond: states, events and one table; knows no socket.

The protocol of 2003 (classic):

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

The later dialogue, of LON-CAPA 1.3, begins in one of three modes. local: both are on one machine, and
lonc has written a key into a file that only they can read. ssl: lond sends the key in TLS. insecure:
the key is agreed on as above.

    init:local:FILE:VERSION                                Connected
                             ok:local                      Initialized

    init:ssl:VERSION                                       Connected
                             ok:ssl                        Initialized
    TLS: the handshake       the handshake, the key        ReceivingKeyInTLS

    init::VERSION                                          Connected
                             the challenge, and as above up to ok

and continues with

    version                                                RequestingVersion
                             lond's version                ReadingVersionString
    sethost:ID                                             SetHost
                             ok                            HostSet
    ekey                     the build key, if there is no key yet
                                                           Idle

Before Idle, the answer to `ping` may be learned. A checked request asks `ping` again, ahead of itself: a
line that lond has said unasked was taken for a reply, and all since then come one request late, if the
answer is another one now.

    ping                                                   RequestingPing
                             any line: it is learned       ReceivingPing
                                                           Idle
    ping, and a request                                    SendingCheckedRequest
                             the same line                 ReceivingCheck
                             the reply                     ReceivingReply
                                                           Idle

A lond that does not know the mode answers with the challenge; the mode then is insecure.

A request that starts with `encrypt:`, or with `sethost:ID:encrypt:`, is sent without that word and
enciphered. A reply that starts with `enc:` is deciphered. A reply in clear to an enciphered request may
be anybody's on the way: it is passed on in the classic mode, and else only if that is allowed. Anything
else that arrives, or arrives at another time, ends the connection: a line without a request would become
the reply to the next one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from lonc.configuration import CLASSIC, INSECURE
from lonc.errors import OutOfStep, PlainReply, ProtocolError
from lonc.replies import NO_ID
from lonc.runtime.line_buffer import Line, LineBuffer, LineTooLong
from lonc.wire.cipher import LineCipher, shared_key
from lonc.wire.wrong_key import complaint, sign_in_clear, sign_in_text

ENCRYPT = b"encrypt:"
SET_HOST = b"sethost:"  # followed by an id and a colon
_PREFIXES = (ENCRYPT, SET_HOST)
_REFUSALS = (b"refused\n", b"rejected\n")
LONGEST_VERSION = 80  # bytes of lond's version that are kept


class State(str, Enum):
    """Names of the Perl original. A str, because the hash of a plain Enum is slow."""

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
    REQUESTING_PING = "RequestingPing"
    RECEIVING_PING = "ReceivingPing"
    IDLE = "Idle"
    SENDING_CHECKED_REQUEST = "SendingCheckedRequest"
    RECEIVING_CHECK = "ReceivingCheck"
    SENDING_REQUEST = "SendingRequest"
    RECEIVING_REPLY = "ReceivingReply"
    DISCONNECTED = "Disconnected"


class Event(str, Enum):
    """What causes a transition."""

    REQUEST = "a request"
    SENT = "all is sent"
    LINE = "a line"
    END = "the end"
    # The meaning of a line or of TLS data, in states from which more than one transition is possible.
    CHALLENGE = "a challenge"
    LOCAL = "lond has read the key file"
    SSL = "TLS begins"
    KEY = "a key in TLS"
    CLASSIC_OK = "ok to the challenge, classic"
    LATER_OK = "ok to the challenge, insecure"
    KEYLESS = "the host is set, and there is no key"
    KEYED = "the host is set, and there is a key"
    UNCHECKED = "no answer to ping is to be learned"
    CHECKED_REQUEST = "a request with ping ahead of it"


# For speed: the lookup of an Enum member takes longer than that of the transition.
_REQUEST, _SENT, _LINE, _END = list(Event)[:4]


class Tunnel(Protocol):
    """What the dialogue needs of TLS; see tls.Tunnel."""

    key: bytes | None  # 32 hex digits, once lond has sent it

    def __len__(self) -> int: ...
    def begin(self) -> None: ...
    def data_to_send(self) -> bytes: ...
    def receive(self, data: bytes) -> bytes: ...


def _nothing() -> None:
    pass


def _always() -> bool:
    return True


def _ignore(_: str) -> None:
    pass


@dataclass(frozen=True)
class Opening:
    """How a connection begins.

    - `mode`: one of `loncKeyMode`, but not auto;
    - `line`: what lonc sends first;
    - `key`: of local mode, 32 hex digits;
    - `key_file_taken()`: of local mode, whether lond has removed the key file: that it could do so
      proves that it is lond, because the program at the other end may be any user's;
    - `tunnel`: of ssl mode;
    - `insecure_fallback`: whether to go on in insecure mode if lond does not know `mode`;
    - `on_key_exchange_ended()`: the key exchange has succeeded or failed, so the key file can be
      removed.
    """

    mode: str
    line: bytes
    key: bytes | None = None
    key_file_taken: Callable[[], bool] = _always
    tunnel: Tunnel | None = None
    insecure_fallback: bool = True
    on_key_exchange_ended: Callable[[], None] = _nothing


PING = b"ping\n"
INIT = Opening(CLASSIC, b"init\n")


def init(_: str) -> Opening:
    """A `choose` that takes the protocol of 2003 for every address."""
    return INIT


class LondProtocol:
    """lonc's side of one connection.

    - `server_id`: the host id of lond; `client_id`: of this machine;
    - `max_reply`: bytes of the longest reply, without the newline;
    - `choose(address)`: returns the Opening for the lond at that address, or raises ProtocolError;
    - `learn_ping`: whether to learn the answer to `ping` at the end of the dialogue;
    - `several_ids`: lond serves several host ids, so each request is sent with the id that it is for:
      `server_id`, unless the request itself starts with `sethost:ID:`;
    - `allow_plain_replies`: whether to pass on a reply in clear to an enciphered request, also if the
      mode is not classic;
    - `on_wrong_key(sentence)`: the reply to the first enciphered request shows that the key does not
      fit; it is passed on nevertheless.

    The caller sends `data_to_send` and reports it by `data_sent`. Every method that raises ProtocolError
    leaves the state Disconnected.
    """

    __slots__ = (
        "_allow_plain_replies",
        "_choose",
        "_cipher",
        "_client_id",
        "_enciphered",
        "_host_prefix",
        "_key_is_tried",
        "_learn_ping",
        "_lines",
        "_on_wrong_key",
        "_opening",
        "_server_id",
        "_tunnel",
        "data_to_send",
        "fell_back",
        "lond_version",
        "mode",
        "ping_answer",
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
        learn_ping: bool = False,
        allow_plain_replies: bool = False,
        on_wrong_key: Callable[[str], None] = _ignore,
    ) -> None:
        self.state = State.CONNECTED
        self.mode = CLASSIC  # one of loncKeyMode, but not auto
        self.fell_back = False  # from local or ssl to insecure
        self.tls_alert = b""  # after a failure of TLS: the reason, to be sent to lond
        self.lond_version: str | None = None  # what lond answered to `version`
        self.ping_answer: bytes | None = None  # what lond answers to `ping`; None if it knows none
        self._learn_ping = learn_ping
        self._server_id = server_id
        self._client_id = client_id
        self._choose = choose
        self._host_prefix = f"sethost:{server_id}:".encode() if several_ids else b""
        self._opening = INIT
        self._cipher: LineCipher | None = None
        self._enciphered = False  # the request in flight
        self._key_is_tried = False  # an enciphered request has been answered
        self._allow_plain_replies = allow_plain_replies
        self._on_wrong_key = on_wrong_key
        self._tunnel: Tunnel | None = None  # while received data may be TLS
        self._lines = LineBuffer(max_reply)
        self.data_to_send: Line | memoryview = b""

    @property
    def held(self) -> int:
        """Bytes in memory: data to send, and received data of an incomplete line or TLS record."""
        tls = 0 if self._tunnel is None else len(self._tunnel)
        return len(self.data_to_send) + len(self._lines) + tls

    def connected(self, address: str) -> None:
        """Begin the dialogue with the lond at `address`. Raises ProtocolError."""
        try:
            self._opening = self._choose(address)
        except ProtocolError as error:
            raise self._fail(str(error)) from None
        self.mode = self._opening.mode
        self.data_to_send = self._opening.line

    def start_request(self, request: Line) -> None:
        """Make `request`, a line, the data to send; the state must be Idle."""
        self._step(_REQUEST, request)

    def start_checked_request(self, request: Line) -> None:
        """As `start_request`, with a `ping` ahead; there must be a `ping_answer`.

        If lond answers it with another line now, `receive` raises OutOfStep.
        """
        self._step(Event.CHECKED_REQUEST, request)

    def data_sent(self, count: int) -> None:
        """The first `count` bytes of `data_to_send` were sent."""
        if count == len(self.data_to_send):
            self.data_to_send = b""
            self._step(_SENT)
        else:
            self.data_to_send = memoryview(self.data_to_send)[count:]

    def receive(self, data: bytes) -> Line | None:
        """Process received data; returns the reply, a line, if `data` completes it.

        If there is more data after the reply, the reply is returned and the state is Disconnected.
        Raises ProtocolError for anything else that the dialogue does not allow.
        """
        if self._tunnel is not None and not (data := self._receive_tls(self._tunnel, data)):
            return None
        if self.state not in _LISTENING:
            raise self._fail(f"lond sent data unasked in state {self.state.value}")
        lines = self._lines
        try:
            line = lines.next_line(data)
        except LineTooLong as error:
            raise self._fail(f"lond sent {error}") from None
        if line is None:
            return None
        reply = self._step(_LINE, line)
        if lines.rest:
            if reply is None and self.state is State.RECEIVING_REPLY:
                return self.receive(b"")  # the answer to `ping`, and more
            if reply is None:
                raise self._fail("lond sent more than one line")
            self.disconnect()
        return reply

    def disconnect(self) -> None:
        """The connection has ended, for any reason."""
        self._step(_END)

    def _step(self, event: Event, line: Line = b"") -> Line | None:
        """The one place that writes the state."""
        try:
            action, self.state = TRANSITIONS[self.state, event]
        except KeyError:
            raise AssertionError(f"{event.value} in state {self.state.value}") from None
        return None if action is None else action(self, line)

    def _fail(self, why: str) -> ProtocolError:
        self.disconnect()
        return ProtocolError(why)

    def _unexpected_answer(self, to: str, answer: Line, instead: str = "") -> ProtocolError:
        return self._fail(f"lond answered {to} with {bytes(answer[:80])!r}{instead}")

    def _key_exchange_ended(self) -> None:
        """The key exchange has succeeded or failed: report it, once."""
        opening, self._opening = self._opening, INIT
        opening.on_key_exchange_ended()

    def _receive_tls(self, tunnel: Tunnel, data: bytes) -> bytes:
        """Process TLS data; returns what follows it in clear, and then TLS has ended."""
        try:
            clear = tunnel.receive(data)
        except ProtocolError as error:
            self.tls_alert = tunnel.data_to_send()
            raise self._fail(str(error)) from None
        if out := tunnel.data_to_send():
            self.data_to_send = bytes(self.data_to_send) + out
        if self.state is State.RECEIVING_KEY_IN_TLS and tunnel.key is not None:
            self._step(Event.KEY, tunnel.key)
        if clear:
            self._tunnel = None
        return clear

    # The actions, in the order of the dialogue.

    def _read_init_answer(self, answer: Line) -> None:
        opening = self._opening
        other_mode = opening.key is not None or opening.tunnel is not None
        if opening.key is not None and answer == b"ok:local\n":
            if not opening.key_file_taken():
                raise self._fail("lond answered ok:local, and has not removed the key file")
            self._step(Event.LOCAL, opening.key)
        elif opening.tunnel is not None and answer == b"ok:ssl\n":
            self._step(Event.SSL)
        elif answer in _REFUSALS or (other_mode and not answer[:-1].isdigit()):
            opened = b":".join(opening.line.split(b":")[:2]).decode().rstrip(":\n")
            raise self._unexpected_answer(opened, answer)
        elif not opening.insecure_fallback:
            raise self._fail("lond knows only the insecure dialogue, and loncAllowInsecure is 0")
        else:
            self._step(Event.CHALLENGE, answer)

    def _echo_challenge(self, challenge: Line) -> None:
        if self.mode != CLASSIC:
            self.fell_back = self.mode != INSECURE
            self.mode = INSECURE
        self._key_exchange_ended()
        self.data_to_send = challenge

    def _read_challenge_answer(self, answer: Line) -> None:
        if answer != b"ok\n":
            raise self._unexpected_answer("the challenge", answer, ", not ok")
        self._step(Event.CLASSIC_OK if self.mode == CLASSIC else Event.LATER_OK)

    def _start_tls(self, _: Line) -> None:
        tunnel = self._tunnel = self._opening.tunnel
        assert tunnel is not None
        tunnel.begin()
        self.data_to_send = tunnel.data_to_send()

    def _use_key(self, key: Line) -> None:
        self._key_exchange_ended()
        if not _KEY.fullmatch(key):
            raise self._fail("the key is not 32 hex digits")
        self._cipher = LineCipher(bytes.fromhex(key.decode()))
        self._request_version()

    def _request_version(self, _: Line = b"") -> None:
        self.data_to_send = bytes(self.data_to_send) + b"version\n"

    def _set_host(self, version: Line) -> None:
        if version in _REFUSALS:
            raise self._unexpected_answer("version", version)
        said = bytes(version[:LONGEST_VERSION]).rstrip(b"\n")
        self.lond_version = repr(said)[2:-1]  # escaped, because it is printed on terminals
        self.data_to_send = f"sethost:{self._server_id}\n".encode()

    def _read_sethost_answer(self, answer: Line) -> None:
        # A lond too old for `sethost` serves one host only.
        if answer not in (b"ok\n", b"unknown_cmd\n"):
            raise self._unexpected_answer("sethost", answer, ", not ok")
        self._step(Event.KEYLESS if self._cipher is None else Event.KEYED)

    def _request_key(self, _: Line) -> None:
        self.data_to_send = b"ekey\n"

    def _derive_key(self, build_key: Line) -> None:
        try:
            key = shared_key(self._server_id, self._client_id, bytes(build_key))
        except ProtocolError as error:
            raise self._fail(str(error)) from None
        self._cipher = LineCipher(key)
        self._request_ping()

    def _request_ping(self, _: Line = b"") -> None:
        if self._learn_ping:
            self.data_to_send = self._with_prefixes(PING)
        else:
            self._step(Event.UNCHECKED)

    def _learn_ping_answer(self, answer: Line) -> None:
        if not NO_ID.match(answer):
            self.ping_answer = bytes(answer)

    def _send_checked_request(self, request: Line) -> None:
        assert self.ping_answer is not None
        self.data_to_send = self._with_prefixes(PING) + bytes(self._with_prefixes(request))

    def _check_ping_answer(self, answer: Line) -> None:
        if answer != self.ping_answer:
            # That line may be a user's reply, which must not be logged.
            self.disconnect()
            raise OutOfStep("out of step: lond answers ping with another line than at first")

    def _send_request(self, request: Line) -> None:
        if self._host_prefix or request.startswith(_PREFIXES):
            request = self._with_prefixes(request)
        self.data_to_send = request

    def _with_prefixes(self, request: Line) -> Line:
        """The line for a request with a prefix, or for a lond with several ids."""
        host_prefix = self._host_prefix
        if request.startswith(SET_HOST):
            end = request.index(b":", len(SET_HOST)) + 1
            if host_prefix:
                host_prefix = bytes(request[:end])
            request = request[end:]
        if request.startswith(ENCRYPT):
            assert self._cipher is not None
            request = self._cipher.encipher(request[len(ENCRYPT) : -1])
            self._enciphered = True
        return host_prefix + request if host_prefix else request

    def _read_reply(self, reply: Line) -> Line:
        if not reply.startswith(b"enc:"):
            if self._enciphered:
                self._examine_plain_reply(reply)
            return reply
        assert self._cipher is not None
        try:
            text = self._cipher.decipher(reply)
        except ProtocolError as error:
            raise self._fail(f"lond sent {error}") from None
        if self._enciphered:
            self._try_key(sign_in_text(text))
        if b"\n" in text:
            raise self._fail("lond sent an enc: line with a newline in it")
        text += b"\n"
        return text

    def _examine_plain_reply(self, reply: Line) -> None:
        self._try_key(sign_in_clear(reply))
        if self.mode != CLASSIC and not self._allow_plain_replies:
            self.disconnect()
            raise PlainReply("lond answered an enciphered request in clear (see loncAllowPlainReplies)")

    def _try_key(self, sign: str | None) -> None:
        """An enciphered request has been answered; `sign` shows that the key does not fit."""
        first = not self._key_is_tried
        self._enciphered, self._key_is_tried = False, True
        if first and sign is not None:
            self._on_wrong_key(complaint(sign, self.mode))

    def _release(self, _: Line) -> None:
        """Free all memory now: references to this object may last until the collector of cycles runs."""
        self._key_exchange_ended()
        self._tunnel = None
        self._lines = LineBuffer(0)
        self.data_to_send = b""


_KEY = re.compile(rb"[0-9A-Fa-f]{32}")

Action = Callable[[LondProtocol, Line], Line | None]

_S, _E, _P = State, Event, LondProtocol

# (state, event): (action, next state). Any other pair is an error.
# fmt: off
TRANSITIONS: dict[tuple[State, Event], tuple[Action | None, State]] = {
    (_S.CONNECTED,              _E.SENT):       (None,                      _S.INITIALIZED),
    (_S.INITIALIZED,            _E.LINE):       (_P._read_init_answer,      _S.INITIALIZED),
    (_S.INITIALIZED,            _E.CHALLENGE):  (_P._echo_challenge,        _S.CHALLENGE_RECEIVED),
    (_S.INITIALIZED,            _E.LOCAL):      (_P._use_key,               _S.REQUESTING_VERSION),
    (_S.INITIALIZED,            _E.SSL):        (_P._start_tls,             _S.RECEIVING_KEY_IN_TLS),
    (_S.CHALLENGE_RECEIVED,     _E.SENT):       (None,                      _S.CHALLENGE_REPLIED),
    (_S.CHALLENGE_REPLIED,      _E.LINE):       (_P._read_challenge_answer, _S.CHALLENGE_REPLIED),
    (_S.CHALLENGE_REPLIED,      _E.CLASSIC_OK): (_P._request_key,           _S.REQUESTING_KEY),
    (_S.CHALLENGE_REPLIED,      _E.LATER_OK):   (_P._request_version,       _S.REQUESTING_VERSION),
    (_S.RECEIVING_KEY_IN_TLS,   _E.SENT):       (None,                      _S.RECEIVING_KEY_IN_TLS),
    (_S.RECEIVING_KEY_IN_TLS,   _E.KEY):        (_P._use_key,               _S.REQUESTING_VERSION),
    (_S.REQUESTING_VERSION,     _E.SENT):       (None,                      _S.READING_VERSION_STRING),
    (_S.READING_VERSION_STRING, _E.LINE):       (_P._set_host,              _S.SET_HOST),
    (_S.SET_HOST,               _E.SENT):       (None,                      _S.HOST_SET),
    (_S.HOST_SET,               _E.LINE):       (_P._read_sethost_answer,   _S.HOST_SET),
    (_S.HOST_SET,               _E.KEYLESS):    (_P._request_key,           _S.REQUESTING_KEY),
    (_S.HOST_SET,               _E.KEYED):      (_P._request_ping,          _S.REQUESTING_PING),
    (_S.REQUESTING_KEY,         _E.SENT):       (None,                      _S.RECEIVING_KEY),
    (_S.RECEIVING_KEY,          _E.LINE):       (_P._derive_key,            _S.REQUESTING_PING),
    (_S.REQUESTING_PING,        _E.UNCHECKED):  (None,                      _S.IDLE),
    (_S.REQUESTING_PING,        _E.SENT):       (None,                      _S.RECEIVING_PING),
    (_S.RECEIVING_PING,         _E.LINE):       (_P._learn_ping_answer,     _S.IDLE),
    (_S.IDLE,                   _E.REQUEST):    (_P._send_request,          _S.SENDING_REQUEST),
    (_S.SENDING_REQUEST,        _E.SENT):       (None,                      _S.RECEIVING_REPLY),
    (_S.RECEIVING_REPLY,        _E.LINE):       (_P._read_reply,            _S.IDLE),
    (_S.IDLE,                   _E.CHECKED_REQUEST):
                                                (_P._send_checked_request,  _S.SENDING_CHECKED_REQUEST),
    (_S.SENDING_CHECKED_REQUEST, _E.LINE):      (_P._check_ping_answer,     _S.SENDING_REQUEST),
    (_S.SENDING_CHECKED_REQUEST, _E.SENT):      (None,                      _S.RECEIVING_CHECK),
    (_S.RECEIVING_CHECK,        _E.LINE):       (_P._check_ping_answer,     _S.RECEIVING_REPLY),
    **{(state, _E.END): (_P._release, _S.DISCONNECTED) for state in State},
}
# fmt: on

_LISTENING = frozenset(state for state, event in TRANSITIONS if event is Event.LINE)
