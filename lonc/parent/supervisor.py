"""Keeps one host served: its socket, the child that serves it, and the child that replaces that one.

                      restart                  connect, delayed
      new ----------------------> starting <----------------------- resting
                                  |  ^   |                             ^
                            ready |  |   | the next child ends         | the delay is over,
                                  v  |   v                             | on demand
      replacing <-------------- serving  waiting ----------------------+
        |   ^     restart         ^ ^ |    ^
  ready |   +---------------------+ | |    |
        v     the next child ends   | +----+
      handing over -----------------+   the child ends
                     the previous child is leaving

A child that runs is replaced without a gap: the next one is forked beside it, gets ready, and is passed
its clients. A child that has died is replaced at once, or after a growing delay if it keeps dying. On
demand a host may rest without a child, until a client connects or a delayed transaction waits. While no
child serves, connects wait in the backlog of the socket, so none is refused.

`TRANSITIONS`, at the end, is complete: any other event in a state raises AssertionError.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from enum import Enum
from functools import partial
from random import Random

from lonc.child.child import LEAVING, READY, REPLACE
from lonc.configuration import ON_DEMAND, Settings
from lonc.errors import CannotStart
from lonc.hosts import Host
from lonc.log import logger
from lonc.monitoring.status import NO_CHILD, NOT_ANSWERING, HostStatus
from lonc.parent.child_process import MAX_LOGGED, ChildProcess, OnStatus
from lonc.parent.socket_names import Spellings, remove_left_lock
from lonc.runtime.backoff import Backoff
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.socket_file import CannotListen, SocketFile

LIVED_LONG = 10.0  # seconds; the death of a child that lived so long begins a new series of delays
RESTART_FIRST, RESTART_LONGEST = 1.0, 60.0  # seconds

ChildrenByPid = dict[int, ChildProcess]
OnRestarted = Callable[[str | None], None]  # its argument is the reason of a failure
ForkChild = Callable[..., ChildProcess]  # takes the arguments of ChildProcess


class State(Enum):
    """Which children there are, and what is awaited."""

    NEW = "new"  # no child, nothing awaited: the first restart has not been requested
    RESTING = "resting"  # no child; the listener is watched
    WAITING = "waiting"  # no child; the restart delay runs
    STARTING = "starting"  # the next child
    SERVING = "serving"  # the child
    REPLACING = "replacing"  # the child and the next one
    HANDING_OVER = "handing over"  # the child and the previous one
    RETIRED = "retired"  # the children that are left drain


class Event(Enum):
    """What moves a supervisor from state to state."""

    RESTART = "a restart is requested"
    RESTART_ON_DEMAND = "a restart is requested of a host whose children start on demand"
    CONNECT = "a client connects, or a delayed transaction waits"
    DELAY_OVER = "the restart delay is over"
    DELAY_OVER_ON_DEMAND = "the restart delay of a host whose children start on demand is over"
    NEXT_READY = "the next child is ready"
    NEXT_FAILED = "the next child has ended before it was ready, or could not be forked"
    HANDED_OVER = "the previous child has passed its idle clients on, or has ended"
    REPLACE = "the child requests its replacement"
    CHILD_IDLE = "the child has left since it was idle, on demand"
    CHILD_LEFT = "the child has left with status 0"
    CHILD_DIED = "the child has died"
    RETIRE = "the host is served no longer"


class Supervisor:
    """`host` and `settings` are given to the next child; they may be replaced at any time.

    A forked child is entered into `children`, which is shared by all supervisors: the code that reaps a
    child removes it there and calls its `ended`. Raises CannotStart if the socket cannot be bound.
    """

    def __init__(
        self,
        loop: EventLoop,
        children: ChildrenByPid,
        host: Host,
        settings: Settings,
        fork_child: ForkChild = ChildProcess,
    ) -> None:
        self.host = host
        self.settings = settings
        self.state = State.NEW
        self.disabled = False
        self.child: ChildProcess | None = None  # the one that serves
        self._next: ChildProcess | None = None
        self._previous: ChildProcess | None = None
        self._to_next: socket.socket | None = None  # for the child, once the next one is ready
        self._on_restarted: list[OnRestarted] = []  # of the restart under way
        self._requested: list[OnRestarted] = []  # of the restart after it
        self._cancel_wait = _nothing  # ends what RESTING or WAITING waits for
        self._loop = loop
        self._children = children
        self._fork_child = fork_child
        self._backoff = Backoff(RESTART_FIRST, RESTART_LONGEST, Random(), at_once=1)
        self._socket = self._bind()
        self._spellings = Spellings(settings.socket_directory, host.name)

    def restart(self, on_restarted: OnRestarted) -> None:
        """Start a child, or replace the one that serves.

        `on_restarted(None)` is called when the new child serves and has been passed the idle clients of
        the previous one; `on_restarted(reason)` when it has failed: a previous child still serves then.
        It is never called before this method returns. All restarts requested during a restart are one
        restart after it. On demand, a host without a child gets none now: the restart succeeds at once.
        """
        self._requested.append(on_restarted)
        self._step_by_mode(Event.RESTART, Event.RESTART_ON_DEMAND)

    def renew_socket(self) -> None:
        """Bind the socket again if its file is missing; only the next child listens at it then.

        Raises CannotStart.
        """
        if not self._socket.in_place():
            missing, self._socket = self._socket, self._bind()
            if self.state is State.RESTING:
                self._cancel_wait()
                self._watch_listener()
            missing.close()

    def add_spelling(self, name: str) -> None:
        """Let clients find the socket by `name` too, the host's name in another case.

        Raises CannotStart.
        """
        self._spellings.add(name)

    def retire(self) -> None:
        """Serve the host no longer: remove the socket, let the children drain. May be repeated."""
        self._step(Event.RETIRE)

    @property
    def outdated(self) -> bool:
        """Whether the newest child has another host entry or another socket than the next would have.

        So it is if the last change failed, or the socket was renewed.
        """
        child = self._next or self.child
        return child is not None and (
            child.host != self.host or child.listening is not self._socket.listening
        )

    def ask_status(self, on_status: OnStatus) -> None:
        """Request the child's status report; `on_status` is called at once if there is no child."""
        if self.child is None:
            on_status(self._status_without_child())
        else:
            self.child.ask_status(on_status)

    def unanswered(self) -> HostStatus:
        """The status of a host whose child has not answered in time."""
        if self.child is None:
            return self._status_without_child()
        return HostStatus(self.host.name, NOT_ANSWERING, pid=self.child.pid)

    def set_disabled(self, disabled: bool) -> None:
        """Make the child, and later ones, fail all requests, or carry them again."""
        self.disabled = disabled
        self._send_order(b"disable" if disabled else b"enable")

    def retry(self) -> None:
        """Make the child forget its failed attempts and connect now."""
        self._send_order(b"retry")

    def look_for_delayed(self) -> None:
        """Make the child read the spool; a delayed transaction of the host is there."""
        if self.state is State.RESTING and not self.disabled:
            self._step(Event.CONNECT)
        else:
            self._send_order(b"look")

    def _send_order(self, order: bytes) -> None:
        for child in (self.child, self._next):
            if child is not None:
                child.send_order(order)

    def _status_without_child(self) -> HostStatus:
        words = {
            State.STARTING: "starting",
            State.RESTING: "disabled" if self.disabled else "resting",
        }
        return HostStatus(self.host.name, words.get(self.state, NO_CHILD))

    def _bind(self) -> SocketFile:
        path = self.settings.socket_directory / self.host.name
        try:
            made = SocketFile(path, self.settings.socket_mode)
        except CannotListen as error:
            raise CannotStart(str(error)) from error
        remove_left_lock(path)
        return made

    # What happens: callbacks of the loop and of the children.

    def _step(self, event: Event, why: str = "") -> None:
        """The one method that writes the state. `why` is a sentence for the log, where one is due."""
        try:
            action, state = TRANSITIONS[self.state, event]
        except KeyError:
            text = f"{self.host.name}: {event.value}, in state {self.state.value}"
            raise AssertionError(text) from None
        if state is not self.state:
            self._cancel_wait()
            self._cancel_wait = _nothing
            self.state = state
        if action is not None:
            action(self, why)

    def _step_by_mode(self, eager: Event, on_demand: Event) -> None:
        self._step(on_demand if self.settings.children == ON_DEMAND else eager)

    def _connected(self) -> None:
        self._step(Event.CONNECT)

    def _delay_over(self) -> None:
        self._step_by_mode(Event.DELAY_OVER, Event.DELAY_OVER_ON_DEMAND)

    def _heard(self, child: ChildProcess, word: bytes) -> None:
        """A child has said `word`. Replaced children still run, and may still say `leaving`."""
        if word == READY and child is self._next:
            self._step(Event.NEXT_READY)
        elif word == LEAVING and child is self._previous:
            self._previous = None
            self._step(Event.HANDED_OVER)
        elif word == REPLACE:
            if child is self.child:
                self._step(Event.REPLACE)
        elif word != LEAVING and self.state is not State.RETIRED:
            child.kill(f"it said {word[:MAX_LOGGED]!r}")

    def _ended(self, child: ChildProcess) -> None:
        """A child has been reaped."""
        why = child.how_it_ended
        if child is self.child:
            self.child = None
            self._step(self._event_of_end(child), why)
        elif child is self._next:
            self._next = None
            self._step(Event.NEXT_FAILED, why)
        else:
            level = logging.DEBUG if child.left else logging.WARNING
            logger.log(logging.INFO if self.state is State.RETIRED else level, "%s", why)
            if child is self._previous:
                self._previous = None
                self._step(Event.HANDED_OVER)

    def _event_of_end(self, child: ChildProcess) -> Event:
        """Which end of the child it was; the first two do not count as failures."""
        assert child.ready_at is not None
        if child.left or self._loop.now - child.ready_at >= LIVED_LONG:
            self._backoff.reset()
        if not child.left:
            return Event.CHILD_DIED
        return Event.CHILD_IDLE if self.settings.children == ON_DEMAND else Event.CHILD_LEFT

    # The actions, in the order of a child's life.

    def _fork(self, _: str = "") -> None:
        self._on_restarted, self._requested = self._requested, []
        to_child = None
        try:
            if self.child is not None:
                self._to_next, to_child = socket.socketpair()
            self._next = self._fork_child(
                self._loop,
                self.host,
                self.settings,
                self._socket.listening,
                to_child,
                self.disabled,
                on_word=self._heard,
                on_ended=self._ended,
            )
        except OSError as error:
            why = f"cannot fork a child for {self.host.name}: {error.strerror}"
            # In another turn: many hosts that fail in a row would call each other back too deeply.
            self._loop.after(0, partial(self._step, Event.NEXT_FAILED, why))
            return
        finally:
            if to_child is not None:
                to_child.close()
        self._children[self._next.pid] = self._next

    def _serve(self, _: str) -> None:
        self._promote_next()
        self._end_restart(None)

    def _hand_over(self, _: str) -> None:
        assert self.child is not None
        assert self._to_next is not None
        self._previous = self.child
        to_next, self._to_next = self._to_next, None
        self._promote_next()
        self._previous.leave(to_next)

    def _promote_next(self) -> None:
        assert self._next is not None
        self.child, self._next = self._next, None
        self.child.ready_at = self._loop.now

    def _end_handover(self, _: str) -> None:
        self._end_restart(None)

    def _request_another(self, _: str) -> None:
        self._requested.append(_ignore_outcome)

    def _keep_child(self, why: str) -> None:
        self._close_to_next()
        why += "; the old one goes on"
        logger.warning("%s", why)
        self._end_restart(why)

    def _lose_child(self, why: str) -> None:
        self._close_to_next()  # the next one need not wait for clients to be passed
        logger.warning("%s; the next one is there already", why)

    def _wait_after_exit(self, why: str) -> None:
        self._wait(why, logging.INFO)

    def _wait_after_failure(self, why: str) -> None:
        self._wait(why, logging.WARNING)

    def _wait(self, why: str, level: int) -> None:
        self._previous = None  # no child takes its clients: it drains
        self._end_restart(why)
        if self.state is not State.WAITING:  # another restart has begun, or the host was retired
            return
        delay = self._backoff.next_delay()
        logger.log(level, "%s; replaced %s", why, f"in {delay:.1f} s" if delay else "at once")
        self._cancel_wait = self._loop.after(delay, self._delay_over).cancel

    def _rest(self, why: str) -> None:
        if why:
            logger.debug("%s", why)
        self._previous = None
        self._watch_listener()
        self._end_restart(None)

    def _rest_on(self, _: str) -> None:
        """Callback of a restart that needs no child: it is over in another turn of the loop."""
        on_restarted, self._requested = self._requested, []
        for each in on_restarted:
            self._loop.after(0, partial(each, None))

    def _drain(self, _: str) -> None:
        unfinished = [*self._on_restarted, *self._requested]
        self._on_restarted, self._requested = [], []
        self._close_to_next()
        self._spellings.remove()
        self._socket.close()
        for child in (self.child, self._next):
            if child is not None:
                child.terminate()
        for on_restarted in unfinished:
            self._loop.after(0, partial(on_restarted, f"{self.host.name} is served no longer"))

    def _log_end(self, why: str) -> None:
        logger.info("%s", why)

    def _watch_listener(self) -> None:
        self._cancel_wait = self._loop.watch(self._socket.listening, self._connected).forget

    def _close_to_next(self) -> None:
        if self._to_next is not None:
            self._to_next.close()
            self._to_next = None

    def _end_restart(self, why_not: str | None) -> None:
        """Begin the next restart if one was requested, then call back.

        In this order: a callback may request another, which then is one after that.
        """
        on_restarted, self._on_restarted = self._on_restarted, []
        if self._requested:
            self._step_by_mode(Event.RESTART, Event.RESTART_ON_DEMAND)
        for each in on_restarted:
            each(why_not)


def _nothing() -> None:
    """Cancels nothing."""


def _ignore_outcome(_: str | None) -> None:
    """For a restart that no caller waits for."""


Action = Callable[[Supervisor, str], None]
_V, _S, _E = Supervisor, State, Event

# fmt: off
TRANSITIONS: dict[tuple[State, Event], tuple[Action | None, State]] = {
    (_S.NEW,          _E.RESTART):              (_V._fork,               _S.STARTING),
    (_S.NEW,          _E.RESTART_ON_DEMAND):    (_V._rest,               _S.RESTING),
    (_S.RESTING,      _E.RESTART):              (_V._fork,               _S.STARTING),
    (_S.RESTING,      _E.RESTART_ON_DEMAND):    (_V._rest_on,            _S.RESTING),
    (_S.RESTING,      _E.CONNECT):              (_V._fork,               _S.STARTING),
    (_S.WAITING,      _E.RESTART):              (_V._fork,               _S.STARTING),
    (_S.WAITING,      _E.RESTART_ON_DEMAND):    (_V._rest_on,            _S.WAITING),
    (_S.WAITING,      _E.DELAY_OVER):           (_V._fork,               _S.STARTING),
    (_S.WAITING,      _E.DELAY_OVER_ON_DEMAND): (_V._rest,               _S.RESTING),
    (_S.STARTING,     _E.RESTART):              (None,                   _S.STARTING),
    (_S.STARTING,     _E.RESTART_ON_DEMAND):    (None,                   _S.STARTING),
    (_S.STARTING,     _E.NEXT_READY):           (_V._serve,              _S.SERVING),
    (_S.STARTING,     _E.NEXT_FAILED):          (_V._wait_after_failure, _S.WAITING),
    (_S.SERVING,      _E.RESTART):              (_V._fork,               _S.REPLACING),
    (_S.SERVING,      _E.RESTART_ON_DEMAND):    (_V._fork,               _S.REPLACING),
    (_S.SERVING,      _E.REPLACE):              (_V._fork,               _S.REPLACING),
    (_S.SERVING,      _E.CHILD_IDLE):           (_V._rest,               _S.RESTING),
    (_S.SERVING,      _E.CHILD_LEFT):           (_V._wait_after_exit,    _S.WAITING),
    (_S.SERVING,      _E.CHILD_DIED):           (_V._wait_after_failure, _S.WAITING),
    (_S.REPLACING,    _E.RESTART):              (None,                   _S.REPLACING),
    (_S.REPLACING,    _E.RESTART_ON_DEMAND):    (None,                   _S.REPLACING),
    (_S.REPLACING,    _E.REPLACE):              (None,                   _S.REPLACING),
    (_S.REPLACING,    _E.NEXT_READY):           (_V._hand_over,          _S.HANDING_OVER),
    (_S.REPLACING,    _E.NEXT_FAILED):          (_V._keep_child,         _S.SERVING),
    (_S.REPLACING,    _E.CHILD_IDLE):           (_V._lose_child,         _S.STARTING),
    (_S.REPLACING,    _E.CHILD_LEFT):           (_V._lose_child,         _S.STARTING),
    (_S.REPLACING,    _E.CHILD_DIED):           (_V._lose_child,         _S.STARTING),
    (_S.HANDING_OVER, _E.RESTART):              (None,                   _S.HANDING_OVER),
    (_S.HANDING_OVER, _E.RESTART_ON_DEMAND):    (None,                   _S.HANDING_OVER),
    (_S.HANDING_OVER, _E.REPLACE):              (_V._request_another,    _S.HANDING_OVER),
    (_S.HANDING_OVER, _E.HANDED_OVER):          (_V._end_handover,       _S.SERVING),
    (_S.HANDING_OVER, _E.CHILD_IDLE):           (_V._rest,               _S.RESTING),
    (_S.HANDING_OVER, _E.CHILD_LEFT):           (_V._wait_after_exit,    _S.WAITING),
    (_S.HANDING_OVER, _E.CHILD_DIED):           (_V._wait_after_failure, _S.WAITING),
    (_S.RETIRED,      _E.RETIRE):               (None,                   _S.RETIRED),
    (_S.RETIRED,      _E.NEXT_READY):           (None,                   _S.RETIRED),
    (_S.RETIRED,      _E.NEXT_FAILED):          (_V._log_end,            _S.RETIRED),
    (_S.RETIRED,      _E.HANDED_OVER):          (None,                   _S.RETIRED),
    (_S.RETIRED,      _E.REPLACE):              (None,                   _S.RETIRED),
    (_S.RETIRED,      _E.CHILD_IDLE):           (_V._log_end,            _S.RETIRED),
    (_S.RETIRED,      _E.CHILD_LEFT):           (_V._log_end,            _S.RETIRED),
    (_S.RETIRED,      _E.CHILD_DIED):           (_V._log_end,            _S.RETIRED),
    **{(state, _E.RETIRE): (_V._drain, _S.RETIRED) for state in State if state is not _S.RETIRED},
}
# fmt: on
