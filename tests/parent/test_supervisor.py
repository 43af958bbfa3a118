"""The states of one host: every pair of state and event, with children that are not forked."""

import socket
from dataclasses import replace

import pytest
from support.still_loop import StillLoop

from lonc.child.child import LEAVING, READY, REPLACE
from lonc.configuration import ON_DEMAND, Settings
from lonc.errors import CannotStart
from lonc.hosts import Host
from lonc.monitoring.status import HostStatus
from lonc.parent.supervisor import LIVED_LONG, TRANSITIONS, Event, State, Supervisor

HOST = Host("l1", "dom", "library", "l1.example.org", "127.0.0.1", line=1)


class FakeChild:
    """Sends words when the test calls for it; `orders` has the orders that it was sent."""

    def __init__(
        self, loop, host, settings, listening, predecessor, disabled, *, pid, on_word, on_ended
    ):
        self.host, self.settings, self.listening = host, settings, listening
        self.predecessor = None if predecessor is None else predecessor.dup()
        if self.predecessor is not None:
            self.predecessor.setblocking(False)
        self.disabled = disabled
        self.pid = pid
        self.ready_at = None
        self.left = False
        self.how_it_ended = f"child {pid} runs"
        self.orders = []
        self.successor = None
        self._on_word, self._on_ended = on_word, on_ended

    def send_order(self, order):
        self.orders.append(order)

    def leave(self, successor):
        self.orders.append(b"leave")
        self.successor = successor

    def terminate(self):
        self.orders.append("TERM")

    def kill(self, why):
        self.orders.append(f"KILL: {why}")

    def ask_status(self, on_status):
        on_status(HostStatus("l1", "asked", pid=self.pid))

    def says(self, word):
        self._on_word(self, word)

    def ends(self, status=3):
        self.left = status == 0
        self.how_it_ended = f"child {self.pid} ended with {status}"
        self._on_ended(self)

    def close(self):
        for each in (self.predecessor, self.successor):
            if each is not None:
                each.close()


class Bench:
    """A supervisor, its loop, and the children it has `forked`, the newest last."""

    def __init__(self, directory):
        self.loop = StillLoop()
        self.settings = Settings(socket_directory=directory)
        self.forked = []
        self.fork_fails = False
        self.children = {}
        self.outcomes = []  # by the callbacks of restarts
        self.supervisor = Supervisor(self.loop, self.children, HOST, self.settings, self.fork_child)

    def fork_child(self, *arguments, **callbacks):
        if self.fork_fails:
            raise OSError(11, "Resource temporarily unavailable")
        self.forked.append(FakeChild(*arguments, pid=len(self.forked) + 1, **callbacks))
        return self.forked[-1]

    @property
    def state(self):
        return self.supervisor.state

    @property
    def newest(self):
        return self.forked[-1]

    def on_demand(self):
        self.settings = self.supervisor.settings = replace(self.settings, children=ON_DEMAND)

    def eager(self):
        self.settings = self.supervisor.settings = replace(self.settings, children="eager")

    def restart(self, name="restart"):
        self.supervisor.restart(lambda why_not: self.outcomes.append((name, why_not)))

    def bring_to(self, state):
        """Bring the supervisor from NEW into that state by real events; then clear the outcomes."""
        if state is State.RESTING:
            self.on_demand()
            self.restart()
            self.loop.advance(0)
            self.eager()
        elif state is State.RETIRED:
            self.bring_to(State.REPLACING)
            self.supervisor.retire()
            self.loop.advance(0)
        elif state is not State.NEW:
            self.restart()
            if state is State.WAITING:
                self.newest.ends()
            elif state is not State.STARTING:
                self.newest.says(READY)
                if state is not State.SERVING:
                    self.restart()
                    if state is State.HANDING_OVER:
                        self.newest.says(READY)
        assert self.state is state
        self.outcomes.clear()

    def bring_about(self, event):
        """Cause `event` in the real way, whether or not the state allows it."""
        supervisor = self.supervisor
        if event in (Event.RESTART_ON_DEMAND, Event.DELAY_OVER_ON_DEMAND, Event.CHILD_IDLE):
            self.on_demand()
        if event in (Event.RESTART, Event.RESTART_ON_DEMAND):
            self.restart()
        elif event is Event.CONNECT:
            self.loop.make_readable(supervisor._socket.listening)
        elif event in (Event.DELAY_OVER, Event.DELAY_OVER_ON_DEMAND):
            self.loop.advance(100)
        elif event is Event.NEXT_READY:
            supervisor._next.says(READY)
        elif event is Event.NEXT_FAILED:
            supervisor._next.ends()
        elif event is Event.HANDED_OVER:
            supervisor._previous.says(LEAVING)
        elif event is Event.REPLACE:
            supervisor.child.says(REPLACE)
        elif event in (Event.CHILD_IDLE, Event.CHILD_LEFT):
            supervisor.child.ends(0)
        elif event is Event.CHILD_DIED:
            supervisor.child.ends(9)
        else:
            supervisor.retire()

    def close(self):
        self.supervisor.retire()
        for each in self.forked:
            each.close()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def serving(bench):
    bench.bring_to(State.SERVING)
    return bench


@pytest.fixture
def handing_over(bench):
    bench.bring_to(State.HANDING_OVER)
    return bench


# Whether there is a child, a next one and a previous one; None where both can be.
CHILDREN = {
    State.NEW: (False, False, False),
    State.RESTING: (False, False, False),
    State.WAITING: (False, False, False),
    State.STARTING: (False, True, False),
    State.SERVING: (True, False, False),
    State.REPLACING: (True, True, False),
    State.HANDING_OVER: (True, False, True),
    State.RETIRED: (None, None, None),
}

# How many children are forked by it, and what the callback of the restart in question is given.
FORKS = {
    (State.NEW, Event.RESTART),
    (State.RESTING, Event.RESTART),
    (State.RESTING, Event.CONNECT),
    (State.WAITING, Event.RESTART),
    (State.WAITING, Event.DELAY_OVER),
    (State.SERVING, Event.RESTART),
    (State.SERVING, Event.RESTART_ON_DEMAND),
    (State.SERVING, Event.REPLACE),
}
RETIRED = "l1 is served no longer"
OUTCOMES = {
    (State.NEW, Event.RESTART_ON_DEMAND): None,
    (State.RESTING, Event.RESTART_ON_DEMAND): None,
    (State.WAITING, Event.RESTART_ON_DEMAND): None,
    (State.STARTING, Event.NEXT_READY): None,
    (State.STARTING, Event.NEXT_FAILED): "child 1 ended with 3",
    (State.STARTING, Event.RETIRE): RETIRED,
    (State.REPLACING, Event.NEXT_FAILED): "child 2 ended with 3; the old one goes on",
    (State.REPLACING, Event.RETIRE): RETIRED,
    (State.HANDING_OVER, Event.HANDED_OVER): None,
    (State.HANDING_OVER, Event.CHILD_IDLE): None,
    (State.HANDING_OVER, Event.CHILD_LEFT): "child 2 ended with 0",
    (State.HANDING_OVER, Event.CHILD_DIED): "child 2 ended with 9",
    (State.HANDING_OVER, Event.RETIRE): RETIRED,
}


PAIRS = [(state, event) for state in State for event in Event]


def named(pairs):
    return [pytest.param(*each, id=f"{each[0].name}-{each[1].name}") for each in pairs]


@pytest.mark.parametrize(("state", "event"), named(TRANSITIONS))
def test_each_pair_of_the_table_leads_to_its_state_with_the_children_of_that_state(bench, state, event):
    if (state, event) == (State.RETIRED, Event.HANDED_OVER):
        bench.bring_to(State.HANDING_OVER)
        bench.supervisor.retire()
        bench.loop.advance(0)
        bench.outcomes.clear()
    else:
        bench.bring_to(state)
    supervisor, forked = bench.supervisor, len(bench.forked)
    bench.bring_about(event)
    assert bench.state is TRANSITIONS[state, event][1]
    children = supervisor.child, supervisor._next, supervisor._previous
    for child, expected in zip(children, CHILDREN[bench.state], strict=True):
        assert expected is None or (child is not None) == expected
    assert len(bench.forked) - forked == ((state, event) in FORKS)
    assert set(bench.children.values()) == set(bench.forked)
    assert bench.loop.is_watched(supervisor._socket.listening) == (bench.state is State.RESTING)
    bench.loop.advance(0, but=supervisor._delay_over)
    reasons = [why_not for _, why_not in bench.outcomes]
    assert reasons == ([OUTCOMES[state, event]] if (state, event) in OUTCOMES else [])


@pytest.mark.parametrize(("state", "event"), named(each for each in PAIRS if each not in TRANSITIONS))
def test_each_pair_that_is_not_in_the_table_raises(bench, state, event):
    bench.bring_to(state)
    with pytest.raises(AssertionError, match=f"^l1: {event.value}, in state {state.value}$"):
        bench.supervisor._step(event)
    assert bench.state is state


class TestReplacing:
    def test_the_next_child_is_passed_the_clients_of_the_previous_one(self, serving):
        serving.restart()
        old, new = serving.forked
        assert old.orders == []
        new.says(READY)
        assert old.orders == [b"leave"]
        old.successor.send(b"a client")
        assert new.predecessor.recv(100) == b"a client"
        assert serving.supervisor.child is new
        old.says(LEAVING)
        assert serving.outcomes == [("restart", None)]

    def test_a_first_child_has_no_predecessor(self, serving):
        assert serving.newest.predecessor is None

    def test_restarts_requested_during_a_restart_are_one_after_it(self, serving):
        serving.restart("first")
        for name in ("second", "third"):
            serving.restart(name)
        serving.newest.says(READY)
        serving.restart("fourth")
        assert len(serving.forked) == 2
        serving.forked[0].says(LEAVING)
        assert serving.outcomes == [("first", None)]
        assert len(serving.forked) == 3
        serving.newest.says(READY)
        serving.forked[1].says(LEAVING)
        assert serving.outcomes == [(name, None) for name in ("first", "second", "third", "fourth")]
        assert len(serving.forked) == 3

    def test_no_second_replacement_starts_during_a_handover(self, handing_over):
        handing_over.restart()
        handing_over.newest.says(REPLACE)
        assert len(handing_over.forked) == 2
        handing_over.forked[0].says(LEAVING)
        assert handing_over.state is State.REPLACING
        assert len(handing_over.forked) == 3

    def test_leaving_counts_only_from_the_previous_child(self, serving):
        serving.newest.says(LEAVING)
        assert serving.state is State.SERVING
        assert serving.newest.orders == []

    def test_a_leaving_child_cannot_request_a_replacement(self, handing_over):
        leaving, serving = handing_over.forked
        leaving.says(REPLACE)
        leaving.says(LEAVING)
        leaving.says(REPLACE)
        assert handing_over.state is State.SERVING
        assert handing_over.supervisor.child is serving
        assert len(handing_over.forked) == 2

    def test_a_child_that_requests_its_replacement_twice_is_replaced_once(self, serving):
        for _ in range(2):
            serving.newest.says(REPLACE) if len(serving.forked) == 1 else serving.forked[0].says(REPLACE)
        serving.newest.says(READY)
        serving.forked[0].says(LEAVING)
        assert serving.state is State.SERVING
        assert len(serving.forked) == 2

    def test_a_previous_child_that_ends_without_leaving_ends_the_handover(self, handing_over, caplog):
        handing_over.forked[0].ends()
        assert handing_over.state is State.SERVING
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        handing_over.newest.ends(0)

    def test_a_callback_may_request_another_restart(self, serving):
        serving.supervisor.restart(lambda _: serving.restart("another"))
        serving.newest.says(READY)
        serving.forked[0].says(LEAVING)
        assert serving.state is State.REPLACING
        assert len(serving.forked) == 3

    def test_when_the_child_dies_the_next_one_waits_for_no_clients(self, serving, caplog):
        serving.restart()
        serving.forked[0].ends()
        assert caplog.messages == ["child 1 ended with 3; the next one is there already"]
        assert serving.newest.predecessor.recv(1) == b""
        serving.newest.says(READY)
        assert serving.outcomes == [("restart", None)]

    @pytest.mark.parametrize("speaker", ["next", "child", "previous"])
    def test_a_child_that_sends_another_word_is_killed(self, handing_over, speaker):
        handing_over.restart()
        if speaker == "next":
            handing_over.forked[0].says(LEAVING)
        child = {"next": -1, "child": 1, "previous": 0}[speaker]
        handing_over.forked[child].says(b"nonsense\n")
        assert handing_over.forked[child].orders[-1] == r"KILL: it said b'nonsense\n'"

    def test_a_child_that_sends_ready_twice_is_killed(self, serving):
        serving.newest.says(READY)
        assert serving.newest.orders == [r"KILL: it said b'ready\n'"]

    def test_each_fork_is_of_the_newest_host_settings_and_socket(self, serving, tmp_path):
        assert not serving.supervisor.outdated
        other = replace(HOST, address="127.0.0.2")
        serving.supervisor.host = other
        assert serving.supervisor.outdated
        serving.supervisor.set_disabled(True)
        serving.restart()
        assert not serving.supervisor.outdated
        assert (serving.newest.host, serving.newest.disabled) == (other, True)
        serving.newest.ends()
        (tmp_path / "l1").unlink()
        serving.supervisor.host = HOST
        assert not serving.supervisor.outdated
        serving.supervisor.renew_socket()
        assert serving.supervisor.outdated
        serving.restart()
        assert serving.newest.listening is serving.supervisor._socket.listening


class TestForkFailure:
    def test_the_callback_is_called_in_a_later_turn(self, bench, caplog):
        bench.fork_fails = True
        bench.restart()
        assert bench.outcomes == []
        bench.loop.advance(0, but=bench.supervisor._delay_over)
        why = "cannot fork a child for l1: Resource temporarily unavailable"
        assert bench.outcomes == [("restart", why)]
        assert caplog.messages == [f"{why}; replaced at once"]
        bench.fork_fails = False
        bench.loop.advance(0)
        assert bench.state is State.STARTING

    def test_the_child_keeps_serving_and_the_next_requested_restart_is_tried(self, serving):
        serving.fork_fails = True
        serving.restart("first")
        serving.restart("second")
        serving.fork_fails = False
        serving.loop.advance(0)
        assert serving.supervisor.child is serving.forked[0]
        assert [name for name, _ in serving.outcomes] == ["first"]
        assert serving.outcomes[0][1].endswith("; the old one goes on")
        assert len(serving.forked) == 2

    @pytest.mark.parametrize("meanwhile", ["the child dies", "the host is retired"])
    def test_any_event_may_come_before_the_callback(self, serving, meanwhile):
        serving.fork_fails = True
        serving.restart()
        if meanwhile == "the child dies":
            serving.forked[0].ends()
        else:
            serving.supervisor.retire()
        serving.loop.advance(0, but=serving.supervisor._delay_over)
        assert len(serving.outcomes) == 1
        assert serving.state in (State.WAITING, State.RETIRED)


class TestDelays:
    def deaths(self, bench, count, status=3, lived=0.0):
        """The delays after that many deaths in a row; each is waited for."""
        delays = []
        for _ in range(count):
            bench.newest.says(READY)
            bench.loop.advance(lived)
            bench.newest.ends(status)
            assert bench.state is State.WAITING
            (when,) = bench.loop.due(bench.supervisor._delay_over)
            delays.append(when - bench.loop.now)
            bench.loop.advance(when - bench.loop.now)
            assert bench.state is State.STARTING
        return delays

    def test_delays_grow_with_each_death_in_a_row(self, bench):
        bench.bring_to(State.STARTING)
        delays = self.deaths(bench, 4)
        for delay, longest in zip(delays, (0, 1, 2, 4), strict=True):
            assert 0.75 * longest <= delay <= longest

    def test_a_child_that_lived_long_begins_a_new_series(self, bench):
        bench.bring_to(State.STARTING)
        self.deaths(bench, 3, lived=LIVED_LONG - 0.1)
        assert self.deaths(bench, 2, lived=LIVED_LONG) == [0, 0]

    def test_a_child_that_left_is_not_counted_as_a_crash(self, bench, caplog):
        caplog.set_level("INFO")
        bench.bring_to(State.STARTING)
        self.deaths(bench, 3)
        caplog.clear()
        assert self.deaths(bench, 3, status=0) == [0, 0, 0]
        assert {record.levelname for record in caplog.records} == {"INFO"}

    def test_a_death_is_a_warning(self, serving, caplog):
        serving.newest.ends()
        assert caplog.messages == ["child 1 ended with 3; replaced at once"]
        assert caplog.records[0].levelname == "WARNING"

    def test_a_restart_does_not_wait_for_the_delay(self, bench):
        bench.bring_to(State.WAITING)
        bench.restart()
        assert bench.state is State.STARTING
        bench.loop.advance(100)
        assert len(bench.forked) == 2

    def test_a_restart_requested_during_a_start_does_not_wait_for_the_delay(self, bench):
        bench.bring_to(State.STARTING)
        bench.restart("another")
        bench.newest.ends()
        assert bench.state is State.STARTING
        assert [name for name, _ in bench.outcomes] == ["restart"]
        bench.loop.advance(100)
        assert len(bench.forked) == 2


class TestOnDemand:
    def test_a_host_rests_until_a_client_connects(self, bench):
        bench.on_demand()
        bench.restart()
        assert bench.outcomes == []
        bench.loop.advance(0)
        assert bench.outcomes == [("restart", None)]
        assert bench.forked == []
        bench.bring_about(Event.CONNECT)
        assert bench.state is State.STARTING

    def test_an_idle_child_leaves_without_a_warning_and_without_a_delay(self, serving, caplog):
        serving.on_demand()
        serving.newest.ends(0)
        assert serving.state is State.RESTING
        assert caplog.messages == []

    def test_a_child_that_dies_is_not_forked_again_before_its_delay(self, serving):
        serving.on_demand()
        serving.newest.ends()
        serving.newest.close()
        serving.restart()  # on demand, that is no reason to fork
        assert serving.state is State.WAITING
        serving.loop.advance(0)
        assert serving.outcomes == [("restart", None)]
        assert serving.state is State.RESTING
        assert len(serving.forked) == 1

    def test_a_delayed_transaction_starts_a_child_unless_the_host_is_disabled(self, bench):
        bench.bring_to(State.RESTING)
        bench.supervisor.set_disabled(True)
        bench.supervisor.look_for_delayed()
        assert bench.state is State.RESTING
        bench.supervisor.set_disabled(False)
        bench.supervisor.look_for_delayed()
        assert bench.state is State.STARTING
        bench.supervisor.look_for_delayed()
        assert bench.newest.orders == [b"look"]

    def test_a_renewed_socket_is_watched(self, bench, tmp_path):
        bench.bring_to(State.RESTING)
        before = bench.supervisor._socket.listening
        (tmp_path / "l1").unlink()
        bench.supervisor.renew_socket()
        assert before.fileno() == -1
        assert not bench.loop.is_watched(before)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "l1"))
            bench.bring_about(Event.CONNECT)
        assert bench.state is State.STARTING

    def test_a_socket_in_place_is_kept(self, bench):
        before = bench.supervisor._socket
        bench.supervisor.renew_socket()
        assert bench.supervisor._socket is before

    def test_a_path_with_another_file_is_an_error(self, bench, tmp_path):
        (tmp_path / "l1").unlink()
        (tmp_path / "l1").mkdir()
        with pytest.raises(CannotStart, match="in the way"):
            bench.supervisor.renew_socket()


class TestRetiring:
    @pytest.mark.parametrize("state", [each for each in State if each is not State.RETIRED])
    def test_retiring_removes_the_socket_and_terminates_the_children(self, bench, state, tmp_path):
        bench.bring_to(state)
        bench.supervisor.retire()
        bench.supervisor.retire()
        assert not (tmp_path / "l1").exists()
        for child in (bench.supervisor.child, bench.supervisor._next):
            if child is not None:
                assert child.orders == ["TERM"]
        bench.loop.advance(100)
        assert len(bench.forked) == len(bench.children)
        assert bench.state is State.RETIRED

    def test_retiring_fails_every_requested_restart(self, serving):
        for name in ("first", "second"):
            serving.restart(name)
        serving.supervisor.retire()
        assert serving.outcomes == []
        serving.loop.advance(0)
        assert serving.outcomes == [("first", RETIRED), ("second", RETIRED)]

    def test_words_of_children_are_ignored_after_retiring(self, serving):
        serving.restart()
        old, new = serving.forked
        serving.supervisor.retire()
        for word in (READY, LEAVING, REPLACE, b"nonsense\n"):
            for child in (old, new):
                child.says(word)
        assert old.orders == new.orders == ["TERM"]
        assert old.successor is None

    def test_after_retiring_the_end_of_each_child_is_only_logged(self, handing_over, caplog):
        caplog.set_level("INFO")
        handing_over.restart()
        handing_over.supervisor.retire()
        for child in handing_over.forked:
            child.ends(0)
        assert caplog.messages == ["child 1 ended with 0", "child 2 ended with 0"]
        assert handing_over.loop.due(handing_over.supervisor._delay_over) == []

    def test_the_callback_of_a_failed_start_may_retire_the_host(self, bench, caplog):
        bench.supervisor.restart(lambda _: bench.supervisor.retire())
        bench.newest.ends()
        assert bench.state is State.RETIRED
        assert bench.loop.due(bench.supervisor._delay_over) == []
        assert caplog.messages == []


class TestOrdersAndStatus:
    def test_orders_go_to_the_child_and_to_the_next_one(self, serving):
        serving.restart()
        serving.supervisor.retry()
        serving.supervisor.set_disabled(True)
        serving.supervisor.set_disabled(False)
        serving.supervisor.look_for_delayed()
        for child in serving.forked:
            assert child.orders == [b"retry", b"disable", b"enable", b"look"]

    @pytest.mark.parametrize(
        ("state", "word"),
        [
            (State.NEW, "no child"),
            (State.RESTING, "resting"),
            (State.WAITING, "no child"),
            (State.STARTING, "starting"),
        ],
    )
    def test_a_host_without_a_child_has_a_status(self, bench, state, word):
        bench.bring_to(state)
        statuses = []
        bench.supervisor.ask_status(statuses.append)
        assert [each.state for each in statuses] == [word]
        assert bench.supervisor.unanswered() == statuses[0]

    def test_a_disabled_host_that_rests_is_disabled(self, bench):
        bench.bring_to(State.RESTING)
        bench.supervisor.set_disabled(True)
        assert bench.supervisor.unanswered().state == "disabled"

    def test_a_child_reports_its_own_status_or_is_not_answering(self, serving):
        statuses = []
        serving.supervisor.ask_status(statuses.append)
        assert statuses == [HostStatus("l1", "asked", pid=1)]
        assert serving.supervisor.unanswered() == HostStatus("l1", "not answering", pid=1)
