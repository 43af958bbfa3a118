"""Keeps one host served: its socket, the child behind it, and the one that takes that child's place.

A child is replaced without anybody noticing: the next one is forked beside it, says ready, and is given
its clients. One that has died is replaced at once, or after a growing delay if it keeps dying.

On demand there may be no child at all: then the host rests, and whoever connects, or a delayed
transaction, wakes one. (Whoever connects waits in the backlog of the socket; so nobody is refused.)
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from functools import partial
from random import Random

from lonc.child.child import LEAVING, READY, REPLACE
from lonc.configuration import ON_DEMAND, Settings
from lonc.errors import CannotStart
from lonc.hosts import Host
from lonc.log import logger
from lonc.monitoring.status import NO_CHILD, NOT_ANSWERING, HostStatus
from lonc.parent.child_process import ChildProcess, StatusHeard
from lonc.runtime.backoff import Backoff
from lonc.runtime.event_loop import Deadline, EventLoop, Watch
from lonc.runtime.socket_file import CannotListen, SocketFile

LIVED_LONG = 10.0  # seconds; a child that lived so long is replaced as if it were the first to die
RESTART_FIRST, RESTART_LONGEST = 1.0, 60.0  # seconds

Family = dict[int, ChildProcess]  # by pid, until they are reaped
BroughtUp = Callable[[str | None], None]  # is told why not, if not


class Supervisor:
    """`host` and `settings` are what the next child will have. Raises CannotStart.

    `family` holds the children of all supervisors; whoever reaps one removes it and calls its `ended`.
    """

    def __init__(self, loop: EventLoop, family: Family, host: Host, settings: Settings) -> None:
        self.host = host
        self.settings = settings
        self.disabled = False
        self.child: ChildProcess | None = None  # who serves
        self._loop = loop
        self._family = family
        self._socket = self._bind()
        self._backoff = Backoff(RESTART_FIRST, RESTART_LONGEST, Random(), at_once=1)
        self._next: ChildProcess | None = None  # not ready yet
        self._previous: ChildProcess | None = None  # has not passed its clients on yet
        self._to_next: socket.socket | None = None  # what the previous one will be given
        self._on_up: list[BroughtUp] = []  # who waits for this change
        self._afterwards: list[BroughtUp] = []  # who wants another after it
        self._retry: Deadline | None = None
        self._retired = False
        self._knock: Watch | None = None  # while the host rests

    def renew_socket(self) -> None:
        """Make the socket anew if somebody has removed it; the next child has it. Raises CannotStart."""
        if not self._socket.in_place():
            lost, self._socket = self._socket, self._bind()
            if self._end_rest():
                self._rest()
            lost.close()

    def bring_up(self, on_up: BroughtUp) -> None:
        """Put a new child in the place of whatever there is; `on_up` is called back later.

        If the new one does not come up, the old one goes on. Where there is none, on demand, the next
        one may as well come later.
        """
        if self._next is not None or self._previous is not None:
            self._afterwards.append(on_up)
        elif self.child is None and self.settings.children == ON_DEMAND:
            if self._retry is None:
                self._rest()
            self._loop.after(0, partial(on_up, None))
        else:
            self._on_up.append(on_up)
            self._fork()

    @property
    def outdated(self) -> bool:
        """Whether its child is not of this host, or not at this socket: a change did not come about."""
        child = self._next or self.child
        return child is not None and (
            child.host != self.host or child.listening is not self._socket.listening
        )

    def ask_status(self, on_status: StatusHeard) -> None:
        """What the child says of itself; at once, and for it, where there is none."""
        if self.child is None:
            on_status(self._without_child())
        else:
            self.child.ask_status(on_status)

    def unanswered(self) -> HostStatus:
        """What is known of a child that does not say how it is."""
        if self.child is None:
            return self._without_child()
        return HostStatus(self.host.name, NOT_ANSWERING, pid=self.child.pid)

    def _without_child(self) -> HostStatus:
        if self._next is not None:
            return HostStatus(self.host.name, "starting")
        if self._knock is not None:
            return HostStatus(self.host.name, "disabled" if self.disabled else "resting")
        return HostStatus(self.host.name, NO_CHILD)

    def disable(self, disabled: bool) -> None:
        """Let the host be served no more, or again."""
        self.disabled = disabled
        self._tell(b"disable" if disabled else b"enable")

    def retry(self) -> None:
        """Let it forget its failures, and connect now."""
        self._tell(b"retry")

    def look(self) -> None:
        """There are delayed transactions."""
        if self._knock is not None and not self.disabled:
            self._fork()
        else:
            self._tell(b"look")

    def _tell(self, order: bytes) -> None:
        for child in (self.child, self._next):
            if child is not None:
                child.tell(order)

    def retire(self) -> None:
        """The host is served no more: remove the socket, let the children drain. Once is enough."""
        if self._retired:
            return
        self._retired = True
        waiting, self._on_up, self._afterwards = [*self._on_up, *self._afterwards], [], []
        self._cancel_retry()
        self._end_rest()
        self._drop_to_next()
        self._socket.close()
        for child in (self.child, self._next):
            if child is not None:
                child.terminate()
        for on_up in waiting:
            self._loop.after(0, partial(on_up, f"{self.host.name} is served no more"))

    def _bind(self) -> SocketFile:
        try:
            return SocketFile(self.settings.socket_directory / self.host.name, self.settings.socket_mode)
        except CannotListen as error:
            raise CannotStart(str(error)) from error

    def _rest(self) -> None:
        """Be without a child until somebody comes."""
        self._cancel_retry()
        if self._knock is None:
            self._knock = self._loop.watch(self._socket.listening, self._fork)

    def _end_rest(self) -> bool:
        """Whether there was one."""
        if self._knock is None:
            return False
        self._knock.forget()
        self._knock = None
        return True

    def _serve_again(self) -> None:
        """Callback: a child that has died has been mourned for long enough."""
        if self.settings.children == ON_DEMAND:
            self._rest()
        else:
            self._fork()

    def _fork(self) -> None:
        self._cancel_retry()
        self._end_rest()
        to_previous = None
        try:
            if self.child is not None:
                self._to_next, to_previous = socket.socketpair()
            self._next = ChildProcess(
                self._loop,
                self.host,
                self.settings,
                self._socket.listening,
                to_previous,
                self.disabled,
                on_word=self._heard,
                on_ended=self._ended,
            )
        except OSError as error:
            self._drop_to_next()
            why = f"cannot fork a child for {self.host.name}: {error.strerror}"
            self._again_in(0, partial(self._failed, why, logging.WARNING))
            return
        finally:
            if to_previous is not None:
                to_previous.close()
        self._family[self._next.pid] = self._next

    def _heard(self, child: ChildProcess, word: bytes) -> None:
        if self._retired:
            return  # all that it can still do is to drain
        if word == READY and child is self._next:
            self._ready(child)
        elif word == LEAVING and child is self._previous:
            self._previous = None
            self._up(None)
        elif word == REPLACE:
            if child is self.child and self._next is None:
                self.bring_up(lambda _: None)
        elif word != LEAVING:
            child.kill(f"it said {word!r}")

    def _ready(self, child: ChildProcess) -> None:
        child.ready_at = self._loop.now
        self._previous, self.child, self._next = self.child, child, None
        if self._previous is None:
            self._up(None)
            return
        assert self._to_next is not None
        to_next, self._to_next = self._to_next, None
        self._previous.leave(to_next)

    def _ended(self, child: ChildProcess) -> None:
        """Callback: it was reaped."""
        how = child.how_it_ended
        served, was_next, was_previous = (
            child is each for each in (self.child, self._next, self._previous)
        )
        if served:
            self.child = None
        elif was_next:
            self._next = None
        elif was_previous:
            self._previous = None
        if self._retired:
            logger.info("%s", how)
        elif served:
            self._died(child, how)
        elif was_next:
            self._drop_to_next()
            self._failed(how, logging.WARNING)
        else:
            logger.log(logging.DEBUG if child.left else logging.WARNING, "%s", how)
            if was_previous:
                self._up(None)

    def _died(self, child: ChildProcess, how: str) -> None:
        assert child.ready_at is not None
        if child.left or self._loop.now - child.ready_at >= LIVED_LONG:
            self._backoff.reset()
        if child.left and self._next is None and self.settings.children == ON_DEMAND:
            logger.debug("%s", how)
            self._previous = None
            self._up(None)
            if self._next is None:
                self._rest()
        elif self._next is not None:
            logger.warning("%s; the next one is there already", how)
            self._drop_to_next()  # it need not wait for anybody's clients
        else:
            self._previous = None  # nobody takes its clients now: it drains
            self._failed(how, logging.INFO if child.left else logging.WARNING)

    def _up(self, why_not: str | None) -> None:
        """The change is done, for better or worse: begin with the next one, then tell who waited.

        (In this order: whoever is told may want another at once.)
        """
        waiting, self._on_up, self._afterwards = self._on_up, self._afterwards, []
        if self._on_up and not self._retired:
            self._fork()
        for on_up in waiting:
            on_up(why_not)

    def _failed(self, why: str, level: int) -> None:
        if self.child is not None:
            why += "; the old one goes on"
            logger.warning("%s", why)
        self._up(why)
        if self.child is None and self._next is None and not (self._on_up or self._retired):
            self._try_again(why, level)

    def _try_again(self, why: str, level: int) -> None:
        delay = self._backoff.next_delay()
        logger.log(level, "%s; replaced %s", why, f"in {delay:.1f} s" if delay else "at once")
        self._again_in(delay, self._serve_again)

    def _again_in(self, delay: float, then: Callable[[], None]) -> None:
        self._cancel_retry()
        self._retry = self._loop.after(delay, then)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _drop_to_next(self) -> None:
        if self._to_next is not None:
            self._to_next.close()
            self._to_next = None
