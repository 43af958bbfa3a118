import contextlib
from dataclasses import replace

import pytest
from support.dialogue import (
    BUILD_KEY,
    CIPHER,
    HANDSHAKE,
    MAX_REPLY,
    PONG,
    UP_TO_EKEY,
    Talk,
    insecure,
    local,
    reach,
    ssl,
)

from lonc.errors import OutOfStep, PlainReply, ProtocolError
from lonc.wire.cipher import LineCipher
from lonc.wire.lond_protocol import TRANSITIONS, Event, LondProtocol, Opening, State


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


def test_a_reply_in_clear_to_an_encrypted_request_is_passed_on_unchanged(talk):
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


class TestAReplyInClearToAnEncipheredRequest:
    """In the modes other than classic."""

    def begin(self, choose, **options):
        talk = Talk(10**6, choose, **options)
        if choose is local:
            talk.play(f"> init:local:/f:1\n< ok:local\n{VERSION_AND_HOST}")
        else:
            talk.play(f"> init::1\n< 12345\n> 12345\n< ok\n{VERSION_AND_HOST}")
            talk.play(f"> ekey\n< {BUILD_KEY}")
        assert talk.protocol.state is State.IDLE
        return talk

    @pytest.mark.parametrize("choose", [local, insecure])
    @pytest.mark.parametrize("request_", [b"encrypt:x\n", b"sethost:msul1:encrypt:x\n"])
    def test_ends_the_connection(self, choose, request_):
        talk = self.begin(choose)
        talk.protocol.start_request(request_)
        talk.sent()
        with pytest.raises(PlainReply, match="answered an enciphered request in clear"):
            talk.protocol.receive(b"authorized\n")
        assert talk.protocol.state is State.DISCONNECTED

    @pytest.mark.parametrize("choose", [local, insecure])
    def test_may_be_allowed(self, choose):
        talk = self.begin(choose, allow_plain_replies=True)
        talk.protocol.start_request(b"encrypt:x\n")
        talk.sent()
        assert talk.protocol.receive(b"authorized\n") == b"authorized\n"
        assert talk.protocol.state is State.IDLE

    @pytest.mark.parametrize("choose", [local, insecure])
    def test_is_none_to_the_next_request_in_clear(self, choose):
        talk = self.begin(choose)
        key = CIPHER if choose is insecure else LineCipher(bytes.fromhex("0123456789abcdef" * 2))
        for _ in range(2):
            talk.protocol.start_request(b"encrypt:x\n")
            talk.sent()
            assert talk.protocol.receive(bytes(key.encipher(b"secret"))) == b"secret\n"
            talk.play("? ping\n> ping\n< msul1\n= msul1")


class TestAWrongKey:
    @pytest.fixture
    def complaints(self):
        return []

    @pytest.fixture
    def talk(self, talk, complaints):
        talk = Talk(talk.size, on_wrong_key=complaints.append)
        talk.play(HANDSHAKE)
        return talk

    def ask(self, talk, reply, request=b"encrypt:x\n"):
        talk.protocol.start_request(request)
        talk.sent()
        talk.pending = bytes(reply)
        talk.arrive()
        assert talk.protocol.state is State.IDLE
        return talk.replies.pop()

    def test_shows_in_the_reply_to_the_first_enciphered_request(self, talk, complaints):
        assert self.ask(talk, b"unknown_cmd\n", b"x\n") == b"unknown_cmd\n"
        assert complaints == []
        assert self.ask(talk, CIPHER.encipher(b"\1\2")) == b"\1\2\n"
        assert self.ask(talk, CIPHER.encipher(b"\1\2")) == b"\1\2\n"
        assert complaints == [
            "a reply is no text when it is deciphered: the key does not fit: lond may know this host"
            " under another id; try loncKeyMode insecure"
        ]

    def test_shows_in_what_lond_could_not_read(self, talk, complaints):
        assert self.ask(talk, b"unknown_cmd\n") == b"unknown_cmd\n"
        assert [each.partition(":")[0] for each in complaints] == [
            "lond answered an enciphered request with unknown_cmd (or does not know that command)"
        ]

    @pytest.mark.parametrize("reply", [CIPHER.encipher(b"text"), b"refused\n"])
    def test_does_not_show_where_the_first_reply_is_in_order(self, talk, complaints, reply):
        self.ask(talk, reply)
        self.ask(talk, b"unknown_cmd\n")
        self.ask(talk, CIPHER.encipher(b"\xff"))
        assert complaints == []

    def test_shows_also_where_the_reply_ends_the_connection(self, talk, complaints):
        with pytest.raises(ProtocolError, match="newline"):
            self.ask(talk, CIPHER.encipher(b"one\ntwo"))
        assert len(complaints) == 1


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


@pytest.mark.parametrize("challenge", ["no number", "12:34", "-1", "ok:local", "ok:ssl"])
def test_in_the_dialogue_of_2003_the_challenge_may_be_any_other_line(talk, challenge):
    protocol = talk.play(f"""
        > init
        < {challenge}
        > {challenge}
        < ok
        > ekey
        < {BUILD_KEY}
    """)
    assert protocol.state is State.IDLE


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
def test_a_wrong_build_key_is_a_failure_and_not_in_the_text(talk, build_key):
    talk.play(UP_TO_EKEY)
    talk.pending = build_key
    with pytest.raises(ProtocolError, match="hex digits") as error:
        talk.arrive()
    assert "refused" not in str(error.value)
    assert talk.protocol.state is State.DISCONNECTED


def test_a_build_key_too_short_for_the_ids_is_a_failure(talk):
    talk.protocol = LondProtocol("l1", "a1", MAX_REPLY)
    talk.protocol.connected("192.0.2.9")
    talk.play(f"""
        {UP_TO_EKEY}
        < 123456
        ! a build key of 6 digits is too short
    """)


LISTENING = [
    State.INITIALIZED,
    State.CHALLENGE_REPLIED,
    State.READING_VERSION_STRING,
    State.HOST_SET,
    State.RECEIVING_KEY,
    State.RECEIVING_PING,
    State.SENDING_CHECKED_REQUEST,
    State.RECEIVING_CHECK,
    State.RECEIVING_REPLY,
]
SILENT = [state for state in State if state not in LISTENING and state is not State.RECEIVING_KEY_IN_TLS]


@pytest.mark.parametrize("state", SILENT)
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
        (State.READING_VERSION_STRING, b"2.11.4\n"),
        (State.HOST_SET, b"ok\n"),
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


def test_a_second_line_after_a_reply_ends_the_connection_but_keeps_the_reply():
    talk = reach(State.RECEIVING_REPLY)
    assert talk.protocol.receive(b"first\nsecond\n") == b"first\n"
    assert talk.protocol.state is State.DISCONNECTED


@pytest.mark.parametrize("state", State)
def test_a_disconnected_protocol_holds_no_bytes(state):
    protocol = reach(state).protocol
    if state in LISTENING:
        protocol.receive(b"x" * 100)
    protocol.disconnect()
    assert protocol.held == 0


def test_half_a_line_after_a_reply_ends_the_connection():
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


# Where it is to go when what is due has come, on the ways of `reach`.
NEXT = {
    (State.CONNECTED, Event.SENT): State.INITIALIZED,
    (State.INITIALIZED, Event.LINE): State.CHALLENGE_RECEIVED,
    (State.CHALLENGE_RECEIVED, Event.SENT): State.CHALLENGE_REPLIED,
    (State.CHALLENGE_REPLIED, Event.LINE): State.REQUESTING_KEY,
    (State.RECEIVING_KEY_IN_TLS, Event.SENT): State.RECEIVING_KEY_IN_TLS,
    (State.REQUESTING_VERSION, Event.SENT): State.READING_VERSION_STRING,
    (State.READING_VERSION_STRING, Event.LINE): State.SET_HOST,
    (State.SET_HOST, Event.SENT): State.HOST_SET,
    (State.HOST_SET, Event.LINE): State.IDLE,
    (State.REQUESTING_KEY, Event.SENT): State.RECEIVING_KEY,
    (State.RECEIVING_KEY, Event.LINE): State.IDLE,
    (State.REQUESTING_PING, Event.SENT): State.RECEIVING_PING,
    (State.RECEIVING_PING, Event.LINE): State.IDLE,
    (State.SENDING_CHECKED_REQUEST, Event.SENT): State.RECEIVING_CHECK,
    (State.SENDING_CHECKED_REQUEST, Event.LINE): State.SENDING_REQUEST,
    (State.RECEIVING_CHECK, Event.LINE): State.RECEIVING_REPLY,
    (State.IDLE, Event.REQUEST): State.SENDING_REQUEST,
    (State.SENDING_REQUEST, Event.SENT): State.RECEIVING_REPLY,
    (State.RECEIVING_REPLY, Event.LINE): State.IDLE,
}

# And what a line turned out to mean, where there is more than one way to go on.
MEANINGS = {
    (State.INITIALIZED, Event.LINE): State.INITIALIZED,
    (State.INITIALIZED, Event.CHALLENGE): State.CHALLENGE_RECEIVED,
    (State.INITIALIZED, Event.LOCAL): State.REQUESTING_VERSION,
    (State.INITIALIZED, Event.SSL): State.RECEIVING_KEY_IN_TLS,
    (State.CHALLENGE_REPLIED, Event.LINE): State.CHALLENGE_REPLIED,
    (State.CHALLENGE_REPLIED, Event.CLASSIC_OK): State.REQUESTING_KEY,
    (State.CHALLENGE_REPLIED, Event.LATER_OK): State.REQUESTING_VERSION,
    (State.RECEIVING_KEY_IN_TLS, Event.KEY): State.REQUESTING_VERSION,
    (State.HOST_SET, Event.LINE): State.HOST_SET,
    (State.HOST_SET, Event.KEYLESS): State.REQUESTING_KEY,
    (State.HOST_SET, Event.KEYED): State.REQUESTING_PING,
    (State.RECEIVING_KEY, Event.LINE): State.REQUESTING_PING,
    (State.REQUESTING_PING, Event.UNCHECKED): State.IDLE,
    (State.IDLE, Event.CHECKED_REQUEST): State.SENDING_CHECKED_REQUEST,
}


@pytest.mark.parametrize("event", [Event.REQUEST, Event.SENT, Event.LINE, Event.END])
@pytest.mark.parametrize("state", State)
def test_every_pair_of_state_and_event(state, event):
    talk = reach(state)
    protocol = talk.protocol
    due = {
        State.CHALLENGE_REPLIED: b"ok\n",
        State.HOST_SET: b"ok\n",
        State.RECEIVING_KEY: BUILD_KEY.encode() + b"\n",
        State.SENDING_CHECKED_REQUEST: PONG,
        State.RECEIVING_CHECK: PONG,
    }
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
    assert {pair: row[1] for pair, row in TRANSITIONS.items()} == NEXT | MEANINGS | ends


class TestPing:
    """The answer to ping that is learned, and checked ahead of a request."""

    @pytest.fixture(params=[1, 2, 3, 7, 10**6])
    def talk(self, request):
        return Talk(request.param, learn_ping=True)

    def learn(self, talk, answer="msul1"):
        return talk.play(f"""
            {HANDSHAKE}
            > ping
            < {answer}
        """)

    def test_it_is_learned_at_the_end_of_the_dialogue(self, talk):
        protocol = self.learn(talk)
        assert protocol.state is State.IDLE
        assert protocol.ping_answer == b"msul1\n"
        assert talk.replies == []

    @pytest.mark.parametrize("answer", ["unknown_cmd", "refused", "rejected", "error: 4", ""])
    def test_a_lond_that_does_not_know_ping_teaches_nothing(self, talk, answer):
        talk.play(f"{HANDSHAKE}\n> ping")
        talk.pending = answer.encode() + b"\n"
        talk.arrive()
        assert talk.protocol.state is State.IDLE
        assert talk.protocol.ping_answer is None

    def test_an_id_that_begins_like_a_refusal_is_an_answer(self, talk):
        assert self.learn(talk, "errorl1").ping_answer == b"errorl1\n"

    def test_a_connection_in_step_gives_the_reply(self, talk):
        self.learn(talk)
        talk.play("""
            & load
            > ping
            > load
            < msul1
            < 0.5
            = 0.5
        """)
        assert talk.protocol.state is State.IDLE

    def test_a_reply_that_comes_later_than_the_answer(self, talk):
        self.learn(talk)
        talk.play("& load\n> ping\n> load\n< msul1")
        assert talk.protocol.state is State.RECEIVING_REPLY
        talk.play("< 0.5\n= 0.5")

    def test_the_answer_may_come_while_the_request_is_being_sent(self, talk):
        self.learn(talk)
        talk.play("& load")
        talk.protocol.data_sent(len(b"ping\nlo"))
        assert talk.protocol.receive(b"msul1\n") is None
        talk.play("> ad\n< 0.5\n= 0.5")

    @pytest.mark.parametrize("size", [1, 10**6])
    @pytest.mark.parametrize("behind", [b"", b"msul1\n", b"msul1\n0.5\n"])
    def test_another_answer_ends_the_connection_and_is_not_quoted(self, size, behind):
        talk = Talk(size, learn_ping=True)
        self.learn(talk)
        talk.play("& load\n> ping\n> load")
        talk.pending = b"a secret of another user\n" + behind
        with pytest.raises(OutOfStep, match="out of step: lond answers ping with another line"):
            talk.arrive()
        assert talk.protocol.state is State.DISCONNECTED

    def test_a_line_behind_the_reply_is_noticed(self, talk):
        self.learn(talk)
        talk.play("& load\n> ping\n> load")
        talk.pending = b"msul1\n0.5\nx\n"
        with contextlib.suppress(ProtocolError):  # if its last bytes arrive by themselves
            talk.arrive()
        assert talk.replies == [b"0.5\n"]
        assert talk.protocol.state is State.DISCONNECTED

    def test_a_lond_of_several_ids_is_asked_with_its_id(self):
        talk = Talk(10**6, learn_ping=True, several_ids=True)
        talk.play(f"""
            {HANDSHAKE}
            > sethost:msul1:ping
            < msul1
            & sethost:msul2:load
            > sethost:msul1:ping
            > sethost:msul2:load
            < msul1
            < 0.5
            = 0.5
        """)

    def test_an_encrypted_request_is_checked_by_a_plain_ping(self, talk):
        self.learn(talk)
        talk.play("""
            & encrypt:auth:msu:student1:secret
            > ping
            > enc:24:5cac5f20240380a5aac5ba3dd233a8658676b02594ebb5da2c38521fdc9c5b90
        """)

    def test_without_it_nothing_is_asked(self, talk):
        plain = Talk(talk.size)
        assert plain.play(HANDSHAKE).state is State.IDLE
        assert plain.sent() == b""
        assert plain.protocol.ping_answer is None


VERSION_AND_HOST = """
    > version
    < 2.11.4
    > sethost:msul1
    < ok
"""


class TestTheLaterDialogue:
    @pytest.fixture(params=[1, 2, 3, 7, 10**6])
    def size(self, request):
        return request.param

    def test_a_key_in_a_file(self, size):
        over = []
        talk = Talk(size, lambda _: replace(local(_), on_key_exchange_ended=lambda: over.append(True)))
        talk.play("""
            > init:local:/f:1
        """)
        assert over == []
        talk.play("< ok:local")
        assert over == [True]
        protocol = talk.play(VERSION_AND_HOST)
        assert protocol.state is State.IDLE
        assert (protocol.mode, protocol.lond_version) == ("local", "2.11.4")
        protocol.start_request(b"encrypt:x\n")
        key = LineCipher(bytes.fromhex("0123456789abcdef" * 2))
        assert talk.sent() == key.encipher(b"x")
        protocol.disconnect()
        assert over == [True]

    def test_a_key_file_that_lond_has_not_removed_proves_nothing(self, size):
        over = []
        opening = replace(
            local(None), key_file_taken=lambda: False, on_key_exchange_ended=lambda: over.append(True)
        )
        talk = Talk(size, lambda _: opening)
        talk.play("""
            > init:local:/f:1
            < ok:local
            ! lond answered ok:local, and has not removed the key file
        """)
        assert over == [True]

    def test_a_key_of_another_length_is_a_failure(self, size):
        talk = Talk(size, lambda _: replace(local(_), key=b"a" * 33))
        with pytest.raises(ProtocolError, match="the key is not 32 hex digits"):
            talk.play("""
                > init:local:/f:1
                < ok:local
            """)

    def test_insecure(self, size):
        talk = Talk(size, insecure)
        protocol = talk.play(f"""
            > init::1
            < 12345
            > 12345
            < ok
            {VERSION_AND_HOST}
            > ekey
            < {BUILD_KEY}
        """)
        assert protocol.state is State.IDLE
        assert (protocol.mode, protocol.lond_version) == ("insecure", "2.11.4")
        protocol.start_request(b"encrypt:x\n")
        assert talk.sent() == CIPHER.encipher(b"x")

    @pytest.mark.parametrize("choose", [local, ssl])
    def test_an_old_lond_answers_with_a_challenge_and_gets_the_old_dialogue(self, size, choose):
        over = []
        talk = Talk(size, lambda _: replace(choose(_), on_key_exchange_ended=lambda: over.append(True)))
        first = talk.sent().decode().strip()
        assert first.startswith("init:")
        protocol = talk.play(f"""
            < 12345
            > 12345
            < ok
            > version
            < unknown_cmd
            > sethost:msul1
            < unknown_cmd
            > ekey
            < {BUILD_KEY}
        """)
        assert protocol.state is State.IDLE
        assert protocol.mode == "insecure"
        assert over == [True]

    @pytest.mark.parametrize("choose", [local, ssl])
    def test_an_old_lond_where_insecure_is_not_allowed(self, size, choose):
        talk = Talk(size, lambda _: replace(choose(_), insecure_fallback=False))
        talk.sent()
        talk.play("""
            < 12345
            ! lond knows only the insecure dialogue, and loncAllowInsecure is 0
        """)

    @pytest.mark.parametrize(
        ("choose", "begun", "answer"),
        [
            (local, "init:local", "ok:ssl"),
            (local, "init:local", "refused"),
            (ssl, "init:ssl", "ok:local"),
            (ssl, "init:ssl", "unknown_cmd"),
            (ssl, "init:ssl", ""),
            (insecure, "init", "refused"),
        ],
    )
    def test_any_other_answer_is_a_failure(self, choose, begun, answer):
        talk = Talk(10**6, choose)
        talk.sent()
        talk.pending = answer.encode() + b"\n"
        with pytest.raises(ProtocolError, match=f"lond answered {begun} with b'{answer}"):
            talk.arrive()

    def test_a_host_that_lond_does_not_serve(self, size):
        talk = Talk(size, local)
        talk.play("""
            > init:local:/f:1
            < ok:local
            > version
            < 2.11.4
            > sethost:msul1
            < refused
            ! lond answered sethost with b'refused.n', not ok
        """)

    def test_a_lond_that_refuses_to_say_its_version(self):
        talk = reach(State.READING_VERSION_STRING)
        with pytest.raises(ProtocolError, match="lond answered version with b'refused"):
            talk.protocol.receive(b"refused\n")
        assert talk.protocol.state is State.DISCONNECTED

    def test_a_mode_that_is_not_allowed_is_a_failure(self):
        def closed(address):
            raise ProtocolError(f"not to {address}")

        protocol = LondProtocol("msul1", "msua3", MAX_REPLY, closed)
        with pytest.raises(ProtocolError, match=r"not to 192\.0\.2\.9"):
            protocol.connected("192.0.2.9")
        assert protocol.state is State.DISCONNECTED

    def test_a_version_is_fit_for_a_terminal(self):
        talk = reach(State.READING_VERSION_STRING)
        talk.protocol.receive(b"2.11 \x1b[2J\xc2\x9b\r\n")
        assert talk.protocol.lond_version == r"2.11 \x1b[2J\xc2\x9b\r"

    def test_only_the_beginning_of_a_long_version_is_kept(self):
        talk = reach(State.READING_VERSION_STRING)
        talk.protocol.receive(b"\xff\n"[:1] * 150 + b"\n")
        assert talk.protocol.lond_version == "\\xff" * 80


class Scripted:
    """A tunnel that has the key after `received` data, and then passes all on in clear."""

    def __init__(self):
        self.key, self.received = None, []

    def __len__(self):
        return 5 if self.received and self.key is None else 0

    def begin(self):
        pass

    def data_to_send(self):
        return b""

    def receive(self, data):
        self.received.append(data)
        if data == b"key":
            self.key = b"0123456789abcdef" * 2
        return data if self.key and data != b"key" else b""


def test_after_its_end_tls_gets_no_clear_text_and_holds_no_bytes():
    tunnel = Scripted()
    talk = Talk(10**6, lambda _: Opening("ssl", b"init:ssl:1\n", tunnel=tunnel))
    talk.sent()
    talk.pending = b"ok:ssl\n"
    talk.arrive()
    assert talk.protocol.held == 0
    assert talk.protocol.receive(b"half a record") is None
    assert talk.protocol.held == 5
    assert talk.protocol.receive(b"key") is None
    assert talk.sent() == b"version\n"
    talk.pending = b"2.11.4\n"
    talk.arrive()
    assert talk.sent() == b"sethost:msul1\n"
    talk.pending = b"ok\n"
    talk.arrive()
    assert talk.protocol.state is State.IDLE
    assert tunnel.received == [b"half a record", b"key", b"2.11.4\n"]


def test_tls_data_is_appended_to_what_is_not_sent_yet():
    tunnel = Scripted()
    pieces = [b"one", b"two"]
    tunnel.data_to_send = lambda: pieces.pop(0)
    talk = Talk(10**6, lambda _: Opening("ssl", b"init:ssl:1\n", tunnel=tunnel))
    talk.sent()
    talk.pending = b"ok:ssl\n"
    talk.arrive()
    assert talk.protocol.receive(b"half a record") is None
    assert talk.sent() == b"onetwo"


def test_a_failure_of_tls_leaves_an_alert_for_lond():
    talk = reach(State.RECEIVING_KEY_IN_TLS)
    with pytest.raises(ProtocolError, match="the data is not TLS"):
        talk.protocol.receive(b"x")
    assert talk.protocol.tls_alert == b"hello"


def test_the_first_80_bytes_of_a_long_answer_are_quoted():
    talk = reach(State.HOST_SET)
    with pytest.raises(ProtocolError) as error:
        talk.protocol.receive(b"x" * 150 + b"\n")
    assert str(error.value) == f"lond answered sethost with b'{'x' * 80}', not ok"


@pytest.mark.parametrize(
    ("several_ids", "request_", "sent"),
    [
        (False, b"ping\n", b"ping\n"),
        (False, b"sethost:other:ping\n", b"ping\n"),
        (True, b"ping\n", b"sethost:msul1:ping\n"),
        (True, b"sethost:other:ping\n", b"sethost:other:ping\n"),
        (True, b"sethost:other:sethost:third:x\n", b"sethost:other:sethost:third:x\n"),
        (False, b"encrypt:x\n", CIPHER.encipher(b"x")),
        (True, b"encrypt:x\n", b"sethost:msul1:" + CIPHER.encipher(b"x")),
        (True, b"sethost:other:encrypt:x\n", b"sethost:other:" + CIPHER.encipher(b"x")),
        (False, b"sethost:other:encrypt:x\n", CIPHER.encipher(b"x")),
    ],
)
def test_a_lond_with_several_ids_gets_the_id_with_each_request(several_ids, request_, sent):
    talk = Talk(10**6)
    talk.protocol = LondProtocol("msul1", "msua3", MAX_REPLY, several_ids=several_ids)
    talk.protocol.connected("192.0.2.9")
    talk.play(HANDSHAKE)
    talk.protocol.start_request(request_)
    assert talk.sent() == sent
