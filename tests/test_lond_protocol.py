import itertools

import pytest

from lonc.cipher import LineCipher, shared_key
from lonc.errors import ProtocolError
from lonc.lond_protocol import TRANSITIONS, Event, LondProtocol, State

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
    """Plays a script: `> ` what lonc says, `< ` what lond says, `? ` what a client asks, `= ` the reply
    it gets, `! ` the error that ends it. What lond says between two other lines arrives in chunks of
    `size` bytes."""

    def __init__(self, size):
        self.size = size
        self.protocol = LondProtocol("msul1", "msua3", MAX_REPLY)
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


@pytest.fixture(params=[1, 2, 3, 7, 10**6])
def talk(request):
    return Talk(request.param)


def test_the_good_dialogue(talk):
    protocol = talk.play(HANDSHAKE)
    assert protocol.state is State.IDLE
    talk.play(
        """
        ? ping
        > ping
        < msul1
        = msul1
        ? echo:
        > echo:
        """
    )
    assert protocol.state is State.RECEIVING_REPLY
    talk.play("< x")
    assert protocol.state is State.IDLE


def test_an_empty_line_is_a_request_and_a_reply_like_any_other(talk):
    talk.play(HANDSHAKE)
    talk.protocol.start_request(b"\n")
    assert talk.sent() == b"\n"
    assert talk.protocol.receive(b"\n") == b"\n"


def test_an_encrypted_request_and_its_reply(talk):
    talk.play(HANDSHAKE)
    talk.play(
        """
        ? encrypt:auth:msu:student1:secret
        > enc:24:5cac5f20240380a5aac5ba3dd233a8658676b02594ebb5da2c38521fdc9c5b90
        """
    )
    talk.pending = CIPHER.encipher(b"authorized")
    talk.arrive()
    talk.play("= authorized")


def test_a_reply_in_clear_to_an_encrypted_request_passes_as_it_is(talk):
    talk.play(HANDSHAKE)
    talk.protocol.start_request(b"encrypt:x\n")
    talk.sent()
    talk.play(
        """
        < refused
        = refused
        """
    )
    assert talk.protocol.state is State.IDLE


@pytest.mark.parametrize("malformed", ["enc:", "enc:99:2c38521fdc9c5b90", "enc:1:zz"])
def test_a_malformed_enc_reply_ends_the_connection(talk, malformed):
    talk.play(HANDSHAKE)
    talk.play(
        f"""
        ? ping
        > ping
        < {malformed}
        ! lond sent a.? ?(malformed )?.*enc: line
        """
    )


def test_a_newline_inside_an_enciphered_reply_would_be_two_lines(talk):
    talk.play(HANDSHAKE)
    talk.protocol.start_request(b"encrypt:x\n")
    talk.sent()
    talk.pending = CIPHER.encipher(b"one\ntwo")
    with pytest.raises(ProtocolError, match="newline"):
        talk.arrive()


@pytest.mark.parametrize("word", ["refused", "rejected"])
def test_a_refusal_instead_of_the_challenge(talk, word):
    talk.play(f"""
        > init
        < {word}
        ! lond answered init with b'{word}
    """)


@pytest.mark.parametrize("word", ["refused", "rejected", "okay", "OK", "ok "])
def test_any_answer_to_the_challenge_but_ok_is_a_failure(talk, word):
    talk.play("""
        > init
        < 12345
        > 12345
    """)
    talk.pending = word.encode() + b"\n"
    with pytest.raises(ProtocolError, match=f"'{word}"):
        talk.arrive()
    assert talk.protocol.state is State.DISCONNECTED


@pytest.mark.parametrize("build_key", [b"\n", b"not a key\n", b"refused\n"])
def test_a_wrong_build_key_is_a_failure_and_is_not_told(talk, build_key):
    talk.play(UP_TO_EKEY)
    talk.pending = build_key
    with pytest.raises(ProtocolError, match="hex digits") as error:
        talk.arrive()
    assert "refused" not in str(error.value)
    assert talk.protocol.state is State.DISCONNECTED


def test_a_build_key_too_short_for_the_ids_is_a_failure(talk):
    talk.protocol = LondProtocol("l1", "a1", MAX_REPLY)
    talk.play(f"""
        {UP_TO_EKEY}
        < 123456
        ! a build key of 6 digits is too short
    """)


def reach(state, size=10**6):
    """A protocol in that state, reached by talking."""
    talk = Talk(size)
    steps = {
        State.CONNECTED: lambda: None,
        State.INITIALIZED: talk.sent,
        State.CHALLENGE_RECEIVED: lambda: talk.protocol.receive(b"12345\n"),
        State.CHALLENGE_REPLIED: talk.sent,
        State.REQUESTING_KEY: lambda: talk.protocol.receive(b"ok\n"),
        State.RECEIVING_KEY: talk.sent,
        State.IDLE: lambda: talk.protocol.receive(BUILD_KEY.encode() + b"\n"),
        State.SENDING_REQUEST: lambda: talk.protocol.start_request(b"ping\n"),
        State.RECEIVING_REPLY: talk.sent,
        State.DISCONNECTED: talk.protocol.disconnect,
    }
    for reached, step in steps.items():
        step()
        assert talk.protocol.state is reached
        if reached is state:
            return talk
    raise AssertionError(state)


LISTENING = [State.INITIALIZED, State.CHALLENGE_REPLIED, State.RECEIVING_KEY, State.RECEIVING_REPLY]


@pytest.mark.parametrize("state", [state for state in State if state not in LISTENING])
def test_a_byte_in_a_state_that_waits_for_none_ends_the_connection(state):
    talk = reach(state)
    with pytest.raises(ProtocolError, match=f"unasked in state {state.value}"):
        talk.protocol.receive(b"x")
    assert talk.protocol.state is State.DISCONNECTED


@pytest.mark.parametrize(
    ("state", "due"),
    [
        (State.INITIALIZED, b"12345\n"),
        (State.CHALLENGE_REPLIED, b"ok\n"),
        (State.RECEIVING_KEY, BUILD_KEY.encode() + b"\n"),
    ],
)
@pytest.mark.parametrize("surplus", [b"x", b"x\n", b"\n"])
@pytest.mark.parametrize("together", [True, False])
def test_a_surplus_line_in_the_handshake_fails_the_attempt_however_it_was_cut(
    state, due, surplus, together
):
    talk = reach(state)
    if not together:
        talk.protocol.receive(due)
        due = b""
    with pytest.raises(ProtocolError):
        talk.protocol.receive(due + surplus)
    assert talk.protocol.state is State.DISCONNECTED


def test_behind_a_reply_a_second_line_leaves_the_reply_and_ends_the_connection():
    talk = reach(State.RECEIVING_REPLY)
    assert talk.protocol.receive(b"first\nsecond\n") == b"first\n"
    assert talk.protocol.state is State.DISCONNECTED


def test_behind_a_reply_even_half_a_line_ends_the_connection():
    talk = reach(State.RECEIVING_REPLY)
    assert talk.protocol.receive(b"first\ns") == b"first\n"
    assert talk.protocol.state is State.DISCONNECTED


def test_one_byte_more_than_the_longest_reply_ends_the_connection(talk):
    protocol = talk.play(HANDSHAKE)
    for length, fits in ((MAX_REPLY, True), (MAX_REPLY + 1, False)):
        protocol.start_request(b"echo\n")
        talk.sent()
        talk.pending = b"x" * length + b"\n"
        if fits:
            talk.arrive()
            assert talk.replies == [b"x" * length + b"\n"]
        else:
            with pytest.raises(ProtocolError, match="more than 200 bytes"):
                talk.arrive()
    assert protocol.state is State.DISCONNECTED


NEXT = {
    (State.CONNECTED, Event.SENT): State.INITIALIZED,
    (State.INITIALIZED, Event.LINE): State.CHALLENGE_RECEIVED,
    (State.CHALLENGE_RECEIVED, Event.SENT): State.CHALLENGE_REPLIED,
    (State.CHALLENGE_REPLIED, Event.LINE): State.REQUESTING_KEY,
    (State.REQUESTING_KEY, Event.SENT): State.RECEIVING_KEY,
    (State.RECEIVING_KEY, Event.LINE): State.IDLE,
    (State.IDLE, Event.REQUEST): State.SENDING_REQUEST,
    (State.SENDING_REQUEST, Event.SENT): State.RECEIVING_REPLY,
    (State.RECEIVING_REPLY, Event.LINE): State.IDLE,
}


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_every_pair_of_state_and_event(state, event):
    talk = reach(state)
    protocol = talk.protocol
    due = {State.CHALLENGE_REPLIED: b"ok\n", State.RECEIVING_KEY: BUILD_KEY.encode() + b"\n"}
    if event is Event.END:
        protocol.disconnect()
        assert protocol.state is State.DISCONNECTED
    elif event is Event.LINE and (state, event) not in NEXT:
        with pytest.raises(ProtocolError):
            protocol.receive(b"line\n")
        assert protocol.state is State.DISCONNECTED
    elif event is Event.LINE:
        protocol.receive(due.get(state, b"12345\n"))
        assert protocol.state is NEXT[state, event]
    elif event is Event.SENT:
        if (state, event) in NEXT:
            protocol.data_sent(len(protocol.data_to_send))
            assert protocol.state is NEXT[state, event]
        else:
            assert not protocol.data_to_send
            with pytest.raises(AssertionError, match="all is sent"):
                protocol.data_sent(0)
    elif (state, event) in NEXT:
        protocol.start_request(b"ping\n")
        assert protocol.state is NEXT[state, event]
    else:
        with pytest.raises(AssertionError, match="a request in state"):
            protocol.start_request(b"ping\n")
        assert protocol.state is state


def test_the_table_has_these_rows_and_no_others():
    ends = {(state, Event.END): State.DISCONNECTED for state in State}
    assert {pair: row[1] for pair, row in TRANSITIONS.items()} == NEXT | ends
