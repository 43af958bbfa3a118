"""Waits for descriptors, signals and the nearest deadline, calls their callbacks; knows nothing of lonc.

A callback that was forgotten is not called again, not even for what the same turn had already seen.
The clock is read once a turn, and once more where there is a deadline to wait for. With none the loop
sleeps until something happens, for ever if need be: an idle process costs nothing.
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
HANGUP_ONLY = 0  # registered, but only a hang-up is told
FORGOTTEN = -1

Callback = Callable[[], None]


class HasFileno(Protocol):
    def fileno(self) -> int: ...


def _nothing() -> None:
    pass


class Watch:
    """One descriptor and its callbacks; made by `EventLoop.watch`.

    `want` says which of them are due. While neither is, only the other side's hanging up is noticed.
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
        """Change what is waited for; None leaves that side as it is."""
        if self.events == FORGOTTEN:
            raise AssertionError("a forgotten watch wants nothing")
        events = self.events
        if read is not None:
            events = events | READ if read else events & ~READ
        if write is not None:
            events = events | WRITE if write else events & ~WRITE
        self._loop.watch_for(self, events)

    def readable(self) -> bool:
        """Look, without waiting for a turn, whether there is something to read or the end."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self.file, select.POLLIN)
        return bool(self._poll.poll(0))

    def forget(self) -> None:
        """Call nothing any more. The descriptor must still be open; a second time does nothing."""
        self._loop.watch_for(self, FORGOTTEN)
        self.on_readable = self.on_writable = self.on_hangup = _nothing


class Deadline:
    """A moment at which a callback is due, unless it is cancelled first; made by `EventLoop.at`."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    def cancel(self) -> None:
        self.callback = _nothing


class Alarm:
    """For deadlines that are set often and seldom met: to set a later one costs a comparison.

    It rings at the earliest that it was set for, and the callback finds out what is due and sets it
    anew; made by `EventLoop.alarm`.
    """

    __slots__ = ("_callback", "_deadline", "_loop", "when")

    def __init__(self, loop: EventLoop, callback: Callback) -> None:
        self._loop = loop
        self._callback = callback
        self.when = math.inf
        self._deadline: Deadline | None = None

    def ring_by(self, when: float) -> None:
        """Ring no later than at `when`, by the loop's clock."""
        if when < self.when:
            self.cancel()
            self.when = when
            self._deadline = self._loop.at(when, self._ring)

    def cancel(self) -> None:
        """Do not ring, unless set anew."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self.when = math.inf

    def _ring(self) -> None:
        self.cancel()
        self._callback()


class EventLoop:
    """One process's loop. `now` is the time of this turn, in seconds of the monotonic clock."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self._running = True
        self._selector = selectors.EpollSelector()
        self._deadlines: list[tuple[float, int, Deadline]] = []
        self._order = itertools.count()
        # selectors knows no descriptor without an interest, epoll itself does: it then tells of
        # hang-ups alone.
        self._silent = select.epoll()
        self._silent_watches: dict[int, Watch] = {}
        self.watch(self._silent, self._hung_up)
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
        """Watch an open descriptor, at first for `events`."""
        watch = Watch(self, file, on_readable, on_writable, on_hangup)
        self.watch_for(watch, events)
        return watch

    def watch_for(self, watch: Watch, events: int) -> None:
        """The one place that tells the kernel what `watch` waits for."""
        before, watch.events = watch.events, events
        if before == events:
            return
        if before > HANGUP_ONLY and events > HANGUP_ONLY:
            self._selector.modify(watch.file, events, watch)
            return
        if before > HANGUP_ONLY:
            self._selector.unregister(watch.file)
        elif before == HANGUP_ONLY:
            self._silent.unregister(watch.file.fileno())
            del self._silent_watches[watch.file.fileno()]
        if events > HANGUP_ONLY:
            self._selector.register(watch.file, events, watch)
        elif events == HANGUP_ONLY:
            self._silent.register(watch.file.fileno(), 0)
            self._silent_watches[watch.file.fileno()] = watch

    def at(self, when: float, callback: Callback) -> Deadline:
        """Call back once, when `now` has reached `when`."""
        deadline = Deadline(callback)
        heapq.heappush(self._deadlines, (when, next(self._order), deadline))
        return deadline

    def after(self, seconds: float, callback: Callback) -> Deadline:
        """Call back once, so many seconds from this call: `now` may be older than that."""
        return self.at(time.monotonic() + seconds, callback)

    def alarm(self, callback: Callback) -> Alarm:
        return Alarm(self, callback)

    def on_signal(self, signum: int, callback: Callback) -> None:
        """Call back in a turn of the loop after the signal; several at once may count as one.

        The handler does no more than note the number, so that it can interrupt anything. The signal is
        unblocked: whoever started us may have had it blocked, and then it would never come.
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

    def turn(self, longest: float | None = None) -> None:
        """Wait, for `longest` seconds at most, and call what is due.

        A deadline is due only if it was before the look at the descriptors: if we were held up, whatever
        came meanwhile came in time.
        """
        looked_at = 0.0
        if self._deadlines:
            looked_at = time.monotonic()
            until_due = max(0.0, self._deadlines[0][0] - looked_at)
            longest = until_due if longest is None else min(longest, until_due)
        ready = self._selector.select(longest)
        self.now = time.monotonic()
        for key, events in ready:
            watch: Watch = key.data
            if events & READ:
                watch.on_readable()
            if events & WRITE:
                watch.on_writable()
        due = []
        while self._deadlines and self._deadlines[0][0] <= looked_at:
            due.append(heapq.heappop(self._deadlines)[2])
        for deadline in due:  # one that is set meanwhile, even for now, waits for the next turn
            deadline.callback()

    def close(self) -> None:
        """Give back the loop's own descriptors; what is watched stays open."""
        self._selector.close()
        self._silent.close()
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            for end in self._wakeup:
                end.close()

    def _note_signal(self, signum: int, _: FrameType | None) -> None:
        self._signalled.add(signum)

    def _signals_arrived(self) -> None:
        assert self._wakeup is not None
        # The bytes only wake; a flood that fills the buffer therefore loses no signal.
        self._wakeup[0].recv(65536)
        while self._signalled:
            self._on_signal[self._signalled.pop()]()

    def _hung_up(self) -> None:
        for fd, _ in self._silent.poll(0):
            if (watch := self._silent_watches.get(fd)) is not None:
                watch.on_hangup()
