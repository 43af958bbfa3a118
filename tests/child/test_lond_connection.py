import contextlib
import math
import resource
import select
import socket
import time

import pytest
from support.asking import Asked
from support.dialogue import BUILD_KEY, reach

from lonc.child.connector import Connector
from lonc.child.lond_connection import LondConnection, Timeouts
from lonc.child.resolver import fixed_address
from lonc.monitoring.statistics import Reason
from lonc.runtime.event_loop import READ, EventLoop, Watch
from lonc.runtime.line_buffer import RECEIVE_SIZE
from lonc.wire.lond_protocol import TRANSITIONS, Event, LondProtocol, State

TOO_MUCH = b"x" * (64 << 20)  # more than the sockets hold between them

TIMEOUTS = {"dialogue": 10.0, "request": 300.0, "peer": 20.0, "keepalive": 60.0, "sync": math.inf}


class Wire:
    """A LondConnection, and lond's end of it in the same process, which the test plays."""

    def __init__(self):
        self.loop = EventLoop()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = self.listening.getsockname()
        self.lond = None
        self.connection = None
        self.events = []
        self.held = []
        self.begun = 0.0  # when the last deadline was set

    def make(self, protocol=None, max_reply=1000, find=None, bind_address=None, connect=5.0, **timeouts):
        self.begun = self.loop.now
        find = find or fixed_address(*self.address)
        self.connection = LondConnection(
            self.loop,
            protocol or LondProtocol("msul1", "msua3", max_reply),
            Connector(self.loop, find, bind_address, connect),
            Timeouts(**{**TIMEOUTS, **timeouts}),
            on_ready=lambda connection: self.events.append("ready"),
            on_idle=lambda connection: self.events.append("idle"),
            on_retired=lambda connection: self.events.append("retired"),
            on_reply=lambda transaction, reply: transaction.complete(reply),
            on_growth=self.held.append,
            on_closed=self.closed,
        )
        return self.connection

    def closed(self, connection, why, transaction):
        assert connection.protocol.state is State.DISCONNECTED
        self.events.append(("closed", why))
        if transaction is not None:
            transaction.fail(why)

    def connect(self, **options):
        self.make(**options).connect()
        self.lond, _ = self.listening.accept()
        self.lond.settimeout(10)
        self.loop.turn(5)

    def greet(self, pong=None):
        """From connect to ready; `pong` is the answer to `ping`, if that is asked."""
        self.hear(b"init\n")
        self.say(b"12345\n")
        self.hear(b"12345\n")
        self.say(b"ok\n")
        self.hear(b"ekey\n")
        self.say(BUILD_KEY.encode() + b"\n")
        if pong is not None:
            self.hear(b"ping\n")
            assert self.events == []
            self.say(pong)
        assert self.events == ["ready"]

    def hear(self, line):
        assert self.lond.recv(len(line), socket.MSG_WAITALL) == line

    def say(self, data):
        self.lond.sendall(data)
        self.loop.turn(5)

    def ask(self, request):
        """Start a transaction on the connection; its outcome goes to `events`."""
        self.begun = self.loop.now
        self.connection.start_request(
            Asked(
                request,
                lambda reply: self.events.append(("reply", reply)),
                lambda why: self.events.append(("failure", why)),
            )
        )

    def turn_until(self, done):
        deadline = time.monotonic() + 10
        while not done():
            assert time.monotonic() < deadline
            self.loop.turn(1)

    def end(self):
        if self.connection is not None and self.connection.protocol.state is not State.DISCONNECTED:
            self.connection.close("the test is over")
        for each in (self.lond, self.listening, self.loop):
            if each is not None:
                each.close()


@pytest.fixture
def wire():
    wire = Wire()
    yield wire
    wire.end()


def reset(lond):
    lond.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    lond.close()


def test_from_connect_to_a_reply(wire):
    wire.connect()
    wire.greet()
    wire.ask(b"ping\n")
    wire.hear(b"ping\n")
    wire.say(b"msul1\n")
    assert wire.events == ["ready", "idle", ("reply", b"msul1\n")]
    assert wire.connection.protocol.state is State.IDLE


def test_the_time_of_a_request_in_flight(wire):
    wire.connect()
    assert wire.connection.in_flight == 0.0  # the dialogue is no request
    wire.greet()
    begun = wire.loop.now
    wire.ask(b"ping\n")
    wire.hear(b"ping\n")
    wire.loop.turn(0.05)
    assert wire.connection.in_flight == pytest.approx(wire.loop.now - begun)
    wire.say(b"msul1\n")
    assert wire.connection.in_flight == 0.0


def test_the_sockets_options(wire):
    wire.connect(bind_address="127.0.0.77")
    theirs = wire.connection._socket
    assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert theirs.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert theirs.gettimeout() == 0
    assert wire.lond.getpeername()[0] == "127.0.0.77"


def test_a_refused_connect_is_one_sentence(wire):
    wire.listening.close()
    wire.make().connect()
    wire.turn_until(lambda: wire.events)
    host, port = wire.address
    assert wire.events == [("closed", f"cannot connect to {host} port {port}: Connection refused")]


def test_all_addresses_are_tried_and_the_text_has_a_sentence_for_each(wire):
    here = (socket.AF_INET, wire.address)
    there = (socket.AF_INET, ("127.0.0.99", wire.address[1]))
    nowhere = (socket.AF_INET, ("255.255.255.255", 1))
    wire.make(find=lambda found: found([nowhere, there, here], "")).connect()
    wire.turn_until(lambda: wire.connection.protocol.state is State.INITIALIZED)
    wire.lond, _ = wire.listening.accept()
    wire.lond.settimeout(10)
    wire.greet()
    wire.connection.close("enough")
    wire.make(find=lambda found: found([nowhere, there], "")).connect()
    wire.turn_until(lambda: len(wire.events) > 2)
    why = (
        "cannot connect to 255.255.255.255 port 1: Network is unreachable;"
        f" cannot connect to 127.0.0.99 port {wire.address[1]}: Connection refused"
    )
    assert wire.events[2] == ("closed", why)


def test_a_host_without_an_address_is_a_failure_with_a_sentence(wire):
    wire.make(find=lambda found: found([], "cannot resolve lond.example: it is not known")).connect()
    assert wire.events == [("closed", "cannot resolve lond.example: it is not known")]


def test_ipv6_is_an_address_like_others(wire):
    with socket.socket(socket.AF_INET6) as listening:
        try:
            listening.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        listening.listen()
        address = listening.getsockname()
        wire.make(find=lambda found: found([(socket.AF_INET6, address)], "")).connect()
        wire.lond, _ = listening.accept()
        wire.loop.turn(5)
        wire.hear(b"init\n")


class TestClocks:
    """No timeout is early. A late one is not a failure: the machine may be busy."""

    def late(self, wire, within):
        wire.turn_until(lambda: wire.events and wire.events[-1][0] in ("closed", "failure"))
        assert time.monotonic() - wire.begun >= within
        return next(why for what, why in reversed(wire.events) if what == "closed")

    def test_a_connect_without_an_answer(self, wire):
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            address = full.getsockname()
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(address)
            wire.make(find=fixed_address(*address), connect=0.2).connect()
            why = self.late(wire, 0.2)
            assert why == f"cannot connect to 127.0.0.1 port {address[1]}: no answer within 0.2 s"
            for filler in fillers:
                filler.close()

    def test_addresses_that_are_found_after_the_connection_was_closed(self, wire):
        asked = []
        wire.make(find=asked.append).connect()
        wire.connection.close("enough")
        asked[0]([(socket.AF_INET, wire.address)], "")
        assert wire.events == [("closed", "enough")]

    def test_a_dialogue_that_does_not_end_though_lond_sends_a_byte_now_and_then(self, wire):
        wire.connect(dialogue=0.3)
        for byte in b"12":
            wire.say(bytes([byte]))
        assert self.late(wire, 0.3) == "no end of the dialogue within 0.3 s: Initialized"

    @pytest.mark.parametrize("begun", [b"", b"half a reply"])
    def test_a_reply_that_does_not_end(self, wire, begun):
        wire.connect(request=0.2)
        wire.greet()
        wire.ask(b"ping\n")
        if begun:
            wire.say(begun)
            assert wire.connection.held == len(begun)
            assert wire.held == [len(begun)]
        assert self.late(wire, 0.2) == "no reply within 0.2 s: ReceivingReply"

    def test_a_request_that_lond_does_not_take(self, wire):
        wire.connect(request=0.2)
        wire.greet()
        wire.ask(TOO_MUCH + b"\n")
        assert self.late(wire, 0.2) == "no reply within 0.2 s: SendingRequest"

    def test_each_request_has_its_own_timeout_and_an_idle_connection_has_none(self, wire):
        wire.connect(request=0.3)
        wire.greet()
        begun = time.monotonic()
        while time.monotonic() - begun < 0.8:
            wire.ask(b"ping\n")
            wire.hear(b"ping\n")
            wire.say(b"l1\n")
            wire.loop.turn(0.05)
        wire.loop.turn(0.4)
        assert wire.connection.protocol.state is State.IDLE

    def test_after_the_end_no_alarm_rings(self, wire):
        wire.connect(dialogue=0.1)
        wire.connection.close("over")
        wire.loop.turn(0.2)
        wire.loop.turn(0)
        assert wire.events == [("closed", "over")]


def test_an_address_that_cannot_be_reached_or_bound_is_one_sentence(wire):
    wire.make(find=fixed_address("255.255.255.255", 1)).connect()
    wire.turn_until(lambda: wire.events)
    assert wire.events[0][1].startswith("cannot connect to 255.255.255.255 port 1: ")
    wire.make(bind_address="192.0.2.1").connect()
    assert wire.events[1] == ("closed", "cannot connect from 192.0.2.1: Cannot assign requested address")


class Reached(LondProtocol):
    """A socket that had been connected before."""

    __slots__ = ()

    def connected(self, address):
        pass


def in_state(wire, state):
    """A connected LondConnection that stays in that state, with a transaction if the state has one."""
    if state in (State.IDLE, State.SENDING_REQUEST, State.RECEIVING_REPLY):
        wire.connect()
        wire.greet()
        if state is State.SENDING_REQUEST:
            wire.ask(TOO_MUCH + b"\n")
        elif state is State.RECEIVING_REPLY:
            wire.ask(b"ping\n")
    else:
        talk = reach(state)
        talk.protocol.__class__ = Reached
        sends = state is State.SENDING_CHECKED_REQUEST
        if sends or not any(event is Event.LINE for of, event in TRANSITIONS if of is state):
            talk.protocol.data_to_send = TOO_MUCH
        wire.connect(protocol=talk.protocol)
    assert wire.connection.protocol.state is state


@pytest.mark.parametrize("end", [socket.socket.close, reset])
@pytest.mark.parametrize("state", [state for state in State if state is not State.DISCONNECTED])
def test_eof_and_rst_in_every_state(wire, state, end):
    in_state(wire, state)
    wire.events.clear()
    end(wire.lond)
    wire.turn_until(lambda: wire.events)
    kind, why = wire.events.pop(0)
    assert kind == "closed"
    assert state.value in why
    if state in (State.SENDING_REQUEST, State.RECEIVING_REPLY):
        assert wire.events == [("failure", why)]
    else:
        assert wire.events == []
    wire.loop.turn(0)


def test_a_partial_reply_and_then_the_end_is_a_failure(wire):
    in_state(wire, State.RECEIVING_REPLY)
    wire.hear(b"ping\n")
    wire.say(b"half a rep")
    wire.lond.close()
    wire.turn_until(lambda: len(wire.events) == 3)
    assert wire.events[-1] == ("failure", "lond closed the connection in state ReceivingReply")


def test_a_request_that_the_socket_takes_in_parts_arrives_whole(wire):
    in_state(wire, State.SENDING_REQUEST)
    received = 0
    while received <= len(TOO_MUCH):
        wire.loop.turn(0)
        received += len(wire.lond.recv(1 << 20))
    wire.turn_until(lambda: wire.connection.protocol.state is State.RECEIVING_REPLY)
    assert wire.connection._watch.events == READ  # or the child would spin until the reply comes
    wire.say(b"ok\n")
    assert wire.events == ["ready", "idle", ("reply", b"ok\n")]


def test_a_line_while_the_request_is_still_being_sent_ends_the_connection(wire):
    in_state(wire, State.SENDING_REQUEST)
    wire.lond.sendall(b"early\n")
    wire.turn_until(lambda: len(wire.events) == 3)
    assert wire.events[1] == ("closed", "lond sent data unasked in state SendingRequest")


def test_a_byte_while_idle_ends_the_connection(wire):
    in_state(wire, State.IDLE)
    wire.say(b"x")
    assert wire.events == ["ready", ("closed", "lond sent data unasked in state Idle")]


def test_a_second_line_after_the_reply_ends_the_connection_and_the_reply_counts(wire):
    in_state(wire, State.RECEIVING_REPLY)
    wire.say(b"mine\nnot mine\n")
    why = "lond said more than one line in reply"
    assert wire.events == ["ready", ("closed", why), ("reply", b"mine\n")]


def test_a_second_line_cut_off_from_the_reply_ends_the_connection_before_more_work(wire):
    in_state(wire, State.RECEIVING_REPLY)
    wire.say(b"mine\n")
    wire.say(b"not mine\n")
    assert wire.events[1:] == [
        "idle",
        ("reply", b"mine\n"),
        ("closed", "lond sent data unasked in state Idle"),
    ]


def test_a_second_line_cut_off_by_the_size_of_our_own_reading_is_noticed_before_more_work(wire):
    wire.connect(max_reply=1 << 20)
    wire.greet()
    wire.ask(b"a\n")
    wire.lond.sendall(b"x" * (RECEIVE_SIZE - 1) + b"\nnot mine\n")
    wire.turn_until(lambda: len(wire.events) == 3)
    assert wire.events[1] == ("closed", "lond sent data unasked in state Idle")
    assert wire.events[2][0] == "reply"


def test_a_reply_that_fills_our_reading_exactly_is_a_reply(wire):
    wire.connect(max_reply=1 << 20)
    wire.greet()
    wire.ask(b"a\n")
    wire.lond.sendall(b"x" * (RECEIVE_SIZE - 1) + b"\n")
    wire.turn_until(lambda: len(wire.events) == 3)
    assert wire.events[1] == "idle"


@pytest.mark.parametrize("end", ["line", "eof", "reset"])
def test_an_idle_connection_is_checked_for_data_before_it_is_used(wire, end):
    in_state(wire, State.IDLE)
    assert wire.connection.still_idle()
    if end == "line":
        wire.lond.sendall(b"unasked\n")
    elif end == "eof":
        wire.lond.close()
    else:
        reset(wire.lond)
    select.select([wire.connection._socket], [], [], 10)  # it has arrived; the loop has not looked
    assert not wire.connection.still_idle()
    assert wire.events[-1][0] == "closed"


def test_a_spurious_readiness_does_not_end_an_idle_connection(wire, restore_afterwards):
    in_state(wire, State.IDLE)
    restore_afterwards(Watch)
    Watch.readable = lambda _: True
    assert wire.connection.still_idle()
    assert wire.connection.protocol.state is State.IDLE


def test_one_byte_more_than_the_longest_reply_ends_the_connection(wire):
    wire.connect(max_reply=100)
    wire.greet()
    wire.ask(b"a\n")
    wire.say(b"x" * 100 + b"\n")
    wire.ask(b"b\n")
    wire.say(b"x" * 101 + b"\n")
    assert wire.events[2] == ("reply", b"x" * 100 + b"\n")
    assert wire.events[3] == ("closed", "lond sent a line of more than 100 bytes")
    assert wire.events[4][0] == "failure"


def test_a_request_on_a_connection_that_was_reset_is_a_failure_at_once(wire):
    in_state(wire, State.IDLE)
    reset(wire.lond)
    select.select([wire.connection._socket], [], [], 10)  # it has arrived; the loop has not looked
    wire.ask(b"ping\n")
    kinds = [event[0] for event in wire.events[1:]]
    assert kinds == ["closed", "failure"]


def test_an_attempt_without_a_free_descriptor_fails_with_a_sentence(wire):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        wire.make().connect()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert wire.events == [("closed", "cannot make a socket: Too many open files")]


def user_timeout(wire):
    return wire.connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)


def test_the_options_of_an_idle_connection_are_set_at_its_alarm_and_end_with_a_request(wire):
    wire.connect(peer=1.0)
    wire.greet()
    assert user_timeout(wire) == 1000
    wire.turn_until(lambda: user_timeout(wire) == 0)
    for _ in range(2):
        wire.ask(b"ping\n")
        assert user_timeout(wire) == 1000
        wire.hear(b"ping\n")
        wire.say(b"msul1\n")
    wire.turn_until(lambda: user_timeout(wire) == 0)
    wire.ask(b"x" * 50_000 + b"\n")
    assert user_timeout(wire) == 0


def test_a_lond_that_does_not_read_a_large_request_is_waited_for(wire):
    wire.connect(peer=1.0)
    wire.greet()
    wire.ask(b"x" * (10 << 20) + b"\n")
    begun = time.monotonic()
    while time.monotonic() - begun < 3:
        wire.loop.turn(0.1)
    assert wire.events == ["ready"]
    wire.lond.setblocking(False)
    left = (10 << 20) + 1
    while left:
        with contextlib.suppress(BlockingIOError):
            left -= len(wire.lond.recv(1 << 20))
        wire.loop.turn(0.01)
    wire.say(b"ok\n")
    assert wire.events[-1] == ("reply", b"ok\n")


def learning():
    return LondProtocol("msul1", "msua3", 1000, learn_ping=True)


class TestPing:
    """A connection in constant use asks ping ahead of a request, every `sync` seconds."""

    def use_until_checked(self, wire):
        """Requests without a pause, until one has `ping` ahead; lond has heard both lines."""
        deadline = time.monotonic() + 10
        while True:
            assert time.monotonic() < deadline
            wire.loop.turn(0)
            wire.ask(b"load\n")
            heard = wire.lond.recv(5, socket.MSG_WAITALL)
            if heard == b"ping\n":
                wire.hear(b"load\n")
                return
            assert heard == b"load\n"
            wire.say(b"0.5\n")

    def test_a_checked_request_gets_its_reply(self, wire):
        wire.connect(protocol=learning(), sync=0.05)
        wire.greet(b"msul1\n")
        for _ in range(2):
            begun = time.monotonic()
            self.use_until_checked(wire)
            assert time.monotonic() - begun < 5
            wire.events.clear()
            wire.say(b"msul1\n")
            assert wire.events == []
            wire.say(b"0.5\n")
            assert wire.events == ["idle", ("reply", b"0.5\n")]

    def test_out_of_step_it_ends_with_what_is_in_flight(self, wire):
        wire.connect(protocol=learning(), sync=0.05)
        wire.greet(b"msul1\n")
        self.use_until_checked(wire)
        wire.events.clear()
        wire.say(b"the reply before\n")
        why = "out of step: lond answers ping with another line than at first"
        assert wire.events == [("closed", why), ("failure", why)]
        assert wire.connection.failure is Reason.OUT_OF_STEP

    def test_after_a_pause_nothing_is_asked(self, wire):
        wire.connect(protocol=learning(), sync=0.05)
        wire.greet(b"msul1\n")
        for _ in range(3):
            wire.loop.turn(0.06)
            wire.loop.turn(0)
            wire.ask(b"load\n")
            wire.hear(b"load\n")
            wire.say(b"0.5\n")
        assert wire.events[-1] == ("reply", b"0.5\n")

    def test_where_lond_does_not_know_ping_nothing_is_asked_again(self, wire):
        wire.connect(protocol=learning(), sync=0.01)
        wire.greet(b"unknown_cmd\n")
        begun = time.monotonic()
        while time.monotonic() - begun < 0.1:
            wire.loop.turn(0)
            wire.ask(b"load\n")
            wire.hear(b"load\n")
            wire.say(b"0.5\n")

    def test_its_first_answer_is_awaited_no_longer_than_the_dialogue(self, wire):
        wire.connect(protocol=learning(), dialogue=0.3)
        with contextlib.suppress(AssertionError):
            wire.greet()
        wire.hear(b"ping\n")
        wire.turn_until(lambda: wire.events)
        assert wire.events == [("closed", "no end of the dialogue within 0.3 s: ReceivingPing")]


@pytest.mark.parametrize("begun", [b"", b"half a reply"])
def test_a_lost_connection_reports_whether_its_reply_had_begun(wire, begun):
    wire.connect()
    wire.greet()
    wire.ask(b"ping\n")
    if begun:
        wire.say(begun)
    reset(wire.lond)
    wire.turn_until(lambda: wire.connection.protocol.state is State.DISCONNECTED)
    assert wire.connection.lost_unheard == (not begun)


def test_whether_data_has_arrived_since_a_time(wire):
    wire.connect()
    wire.greet()
    assert wire.connection.heard
    assert wire.connection.heard_since(wire.loop.now - 20)
    assert not wire.connection.heard_since(wire.loop.now + 20)
    wire.connection.close("over")
    assert not wire.connection.heard_since(wire.loop.now - 20)


def test_a_retired_connection_is_reported_when_it_is_idle(wire):
    wire.connect()
    wire.greet()
    before = wire.loop.now
    wire.ask(b"ping\n")
    assert wire.connection.request_started() >= before - 1
    wire.connection.retire()
    wire.say(b"msul1\n")
    assert wire.events == ["ready", "retired", ("reply", b"msul1\n")]


def test_closing_twice_reports_one_end(wire):
    in_state(wire, State.IDLE)
    wire.connection.close("first")
    wire.connection.close("second")
    assert wire.events == ["ready", ("closed", "first")]


def test_a_reply_of_64_mib_arrives_whole(wire):
    size = 64 << 20
    wire.connect(max_reply=size)
    wire.greet()
    wire.ask(b"big\n")
    reply = bytes(range(11, 256)) * (size // 245 + 1)
    reply = reply[:size] + b"\n"
    rest = memoryview(reply)
    wire.lond.setblocking(False)
    while len(rest):
        with contextlib.suppress(BlockingIOError):
            rest = rest[wire.lond.send(rest[: 1 << 20]) :]
        wire.loop.turn(0)
    wire.turn_until(lambda: wire.events[-1][0] == "reply")
    assert wire.events[-1][1] == reply
