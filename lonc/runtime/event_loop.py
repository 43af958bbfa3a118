"""Waits for descriptors, signals and deadlines, and calls their callbacks; knows nothing of lonc.

- A callback that was forgotten or cancelled is not called, even if its event was found in this turn.
- The clock is read at most twice a turn. With no deadline, the loop sleeps until a descriptor is ready
  or a signal arrives, and turns once a day: an idle process uses no CPU.
"""

from __future__ import annotations

import heapq
import itertools
import math
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Protocol

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
HANGUP_ONLY = 0  # registered, but only a hang-up of the other side is reported
FORGOTTEN = -1

LONGEST_WAIT = 86400.0  # seconds; epoll takes at most 2**31 - 1 milliseconds, 24.8 days

Callback = Callable[[], None]


class HasFileno(Protocol):
    """A socket, a pipe, an epoll."""

    def fileno(self) -> int: ...


def _nothing() -> None:
    pass


class Watch:
    """One descriptor and its callbacks; made by `EventLoop.watch`.

    `events` is what the loop waits for: READ, WRITE, both, HANGUP_ONLY or FORGOTTEN.
    """

    __slots__ = ("_loop", "_poll", "events", "file", "on_hangup", "on_readable", "on_writable")

    def __init__(
        self,
        loop: EventLoop,
        file: HasFileno,
        on_readable: Callback,
        on_writable: Callback,
        on_hangup: Callback,
    ) -> None:
        self._loop = loop
        self._poll: select.poll | None = None
        self.file = file
        self.events = FORGOTTEN
        self.on_readable = on_readable
        self.on_writable = on_writable
        self.on_hangup = on_hangup

    def want(self, *, read: bool | None = None, write: bool | None = None) -> None:
        """Change the events to wait for; None leaves that one as it is. With neither, only a hang-up of
        the other side is reported."""
        if self.events == FORGOTTEN:
            raise AssertionError("a forgotten watch wants nothing")
        events = self.events
        if read is not None:
            events = events | READ if read else events & ~READ
        if write is not None:
            events = events | WRITE if write else events & ~WRITE
        self._loop.set_events(self, events)

    def readable(self) -> bool:
        """Whether a read would return at once, with data or the end; asks the kernel now."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.file, select.POLLIN)
        return bool(self._poll.poll(0))

    def forget(self) -> None:
        """Unregister and call nothing any more. The descriptor must still be open. Idempotent."""
        self._loop.set_events(self, FORGOTTEN)
        self.on_readable = self.on_writable = self.on_hangup = _nothing


class Deadline:
    """One call at one time; made by `EventLoop.at` and `EventLoop.after`."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    def cancel(self) -> None:
        """Do not call. Without effect after the call."""
        self.callback = _nothing


class Alarm:
    """One call at the earliest of several times; made by `EventLoop.alarm`.

    For deadlines that are often set and seldom reached, as of idle connections: to set a time later than
    the present one costs one comparison. The callback finds what is due and sets the alarm again.
    """

    __slots__ = ("_callback", "_deadline", "_loop", "when")

    def __init__(self, loop: EventLoop, callback: Callback) -> None:
        self._loop = loop
        self._callback = callback
        self.when = math.inf
        self._deadline: Deadline | None = None

    def ring_by(self, when: float) -> None:
        """Call at `when`, in seconds of the loop's clock, or earlier if the alarm is set for earlier."""
        if when < self.when:
            self.cancel()
            self.when = when
            self._deadline = self._loop.at(when, self._ring)

    def cancel(self) -> None:
        """Do not call until the alarm is set again."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self.when = math.inf

    def _ring(self) -> None:
        self.cancel()
        self._callback()


class EventLoop:
    """One process's loop.

    - `clock` returns seconds and never goes back;
    - `now` is the clock's time after this turn's wait.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.now = clock()
        self._running = True
        self._selector = selectors.EpollSelector()
        self._deadlines: list[tuple[float, int, Deadline]] = []
        self._order = itertools.count()
        # `selectors` takes no descriptor without an event. epoll does, and then reports hang-ups only:
        # those descriptors are in an epoll of their own, which the selector watches.
        self._hangups = select.epoll()
        self._hangup_watches: dict[int, Watch] = {}
        self.watch(self._hangups, self._hangups_arrived)
        self._signalled: set[int] = set()
        self._on_signal: dict[int, Callback] = {}
        self._wakeup: tuple[socket.socket, socket.socket] | None = None

    def watch(
        self,
        file: HasFileno,
        on_readable: Callback,
        on_writable: Callback = _nothing,
        on_hangup: Callback = _nothing,
        events: int = READ,
    ) -> Watch:
        """Register an open descriptor, at first for `events`.

        - `on_readable()`, `on_writable()`: in each turn in which it is so and the event is wanted;
        - `on_hangup()`: in each turn, while no event is wanted and the other side has closed.
        """
        watch = Watch(self, file, on_readable, on_writable, on_hangup)
        self.set_events(watch, events)
        return watch

    def set_events(self, watch: Watch, events: int) -> None:
        """For Watch. The one place that registers descriptors with the kernel."""
        before, watch.events = watch.events, events
        if before == events:
            return
        if before > HANGUP_ONLY and events > HANGUP_ONLY:
            self._selector.modify(watch.file, events, watch)
            return
        if before > HANGUP_ONLY:
            self._selector.unregister(watch.file)
        elif before == HANGUP_ONLY:
            self._hangups.unregister(watch.file.fileno())
            del self._hangup_watches[watch.file.fileno()]
        if events > HANGUP_ONLY:
            self._selector.register(watch.file, events, watch)
        elif events == HANGUP_ONLY:
            self._hangups.register(watch.file.fileno(), 0)
            self._hangup_watches[watch.file.fileno()] = watch

    def at(self, when: float, callback: Callback) -> Deadline:
        """Call `callback` once, as soon as the clock has reached `when`."""
        deadline = Deadline(callback)
        heapq.heappush(self._deadlines, (when, next(self._order), deadline))
        return deadline

    def after(self, seconds: float, callback: Callback) -> Deadline:
        """Call `callback` once, `seconds` after this call (not after `now`, which may be older)."""
        return self.at(self._clock() + seconds, callback)

    def alarm(self, callback: Callback) -> Alarm:
        return Alarm(self, callback)

    def on_signal(self, signum: int, callback: Callback) -> None:
        """Call `callback` in a turn after the signal. Several signals of one kind may cause one call.

        Also unblocks the signal, which may be blocked in the process that started this one.
        """
        if self._wakeup is None:
            self._wakeup = socket.socketpair()
            for end in self._wakeup:
                end.setblocking(False)
            signal.set_wakeup_fd(self._wakeup[1].fileno(), warn_on_full_buffer=False)
            self.watch(self._wakeup[0], self._signals_arrived)
        self._on_signal[signum] = callback
        signal.signal(signum, self._note_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signum,))

    def run(self) -> None:
        """Turn until `stop` is called."""
        while self._running:
            self.turn()

    def stop(self) -> None:
        """End `run` after this turn."""
        self._running = False

    def turn(self, longest: float = math.inf) -> None:
        """Wait until something is due, but at most `longest` seconds, and call what is due.

        Rule: a deadline is due if it was reached before the wait, not during it. If the process was
        suspended meanwhile, data that has arrived is read before the timeout for it is called.
        """
        before_wait = -math.inf
        if self._deadlines:
            before_wait = self._clock()
            longest = min(longest, max(0.0, self._deadlines[0][0] - before_wait))
        ready = self._selector.select(min(longest, LONGEST_WAIT))
        self.now = self._clock()
        for key, events in ready:
            watch: Watch = key.data
            if events & READ:
                watch.on_readable()
            if events & WRITE:
                watch.on_writable()
        due = []
        while self._deadlines and self._deadlines[0][0] <= before_wait:
            due.append(heapq.heappop(self._deadlines)[2])
        for deadline in due:  # one that is set by these, even for now, waits for the next turn
            deadline.callback()

    def close(self) -> None:
        """Close the loop's own descriptors, not the watched ones."""
        self._selector.close()
        self._hangups.close()
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            for end in self._wakeup:
                end.close()

    def _note_signal(self, signum: int, _: FrameType | None) -> None:
        self._signalled.add(signum)  # nothing else: a handler may interrupt anything

    def _signals_arrived(self) -> None:
        assert self._wakeup is not None
        self._wakeup[0].recv(
            4096
        )  # they only wake the loop: when their buffer is full, no signal is lost
        while self._signalled:
            self._on_signal[self._signalled.pop()]()

    def _hangups_arrived(self) -> None:
        for fd, _ in self._hangups.poll(0):
            if (watch := self._hangup_watches.get(fd)) is not None:
                watch.on_hangup()
