"""Finds a host's addresses: the one in hosts.tab, or those of its name, resolved in a thread."""

from __future__ import annotations

import math
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from lonc.runtime.event_loop import READ, EventLoop, Watch

Address = tuple[int, tuple[str, int] | tuple[str, int, int, int]]  # family, argument of connect
OnFound = Callable[[Sequence[Address], str], None]  # addresses in order; if there are none, the reason

PATIENCE = 1.8  # seconds; RFC 8767, section 5: so long a client waits before stale data are used
LATE_ANSWER_LASTS = 60.0  # seconds, in which the next attempt uses an answer that came too late

# The answers of getaddrinfo that say that the name has no address; all others are failures.
_DEFINITE = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


class Resolver:
    """Resolves a name anew for each attempt to connect; simultaneous attempts share one lookup.

    A resolver that hangs costs one thread, and delays only the attempts that need this name.

    - An attempt waits at most `timeout` seconds. glibc asks each nameserver for 5 s, so that the second
      of two answers after 5 s (resolv.conf(5)). An answer that comes when no attempt waits any more is
      used by the next one.
    - While lookups fail or take more than PATIENCE seconds, the last known addresses are used, and
      `on_error(sentence)` is called. That the name has no address is not a failure.
    """

    def __init__(
        self,
        loop: EventLoop,
        name: str,
        port: int,
        ipv4_only: bool,
        timeout: float,
        on_error: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._name = name
        self._port = port
        self._family = socket.AF_INET if ipv4_only else socket.AF_UNSPEC
        self._timeout = timeout
        self._on_error = on_error
        self._waiting: deque[tuple[float, OnFound]] = deque()  # each with its deadline, ascending
        self._alarm = loop.alarm(self._check_deadlines)
        self._known: Sequence[Address] = []  # of the last lookup that succeeded
        self._late_until = -math.inf  # until then they are an answer that no attempt has used
        self._answer: tuple[Sequence[Address], str, bool] = [], "", False  # the last: is it definite?
        self._started = -math.inf  # when the lookup under way was started
        self._watch: Watch | None = None  # of a socket whose other end the thread closes when it is done

    def find(self, on_found: OnFound) -> None:
        """Start a lookup, or join the one under way; `on_found` is called from the loop, never here."""
        now = self._loop.now
        if now < self._late_until:
            self._late_until = -math.inf
            self._loop.after(0, partial(on_found, self._known, ""))
            return
        if self._watch is None:
            try:
                self._start_lookup()
            except (OSError, RuntimeError) as error:  # no descriptor is free, or no thread
                why = f"cannot resolve {self._name}: {error}"
                self._loop.after(0, partial(self._lookup_failed, [on_found], why))
                return
            self._started = now
        if self._known:
            # From the start of the lookup: an attempt does not wait for one that hangs already.
            deadline = max(now, self._started + min(PATIENCE, self._timeout))
        else:
            deadline = now + self._timeout
        self._waiting.append((deadline, on_found))
        self._alarm.ring_by(deadline)

    def _start_lookup(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            threading.Thread(target=self._look_up, args=(theirs,), daemon=True).start()
        except RuntimeError:
            ours.close()
            theirs.close()
            raise
        self._watch = self._loop.watch(ours, lambda: self._looked_up(ours), events=READ)

    def _look_up(self, done: socket.socket) -> None:
        """Runs in the thread."""
        with done:
            try:
                found = socket.getaddrinfo(self._name, self._port, self._family, socket.SOCK_STREAM)
                # Each once: with IPv4 alone, glibc returns 127.0.0.1 twice for a name that /etc/hosts
                # has beside ::1 too.
                addresses = dict.fromkeys((each[0], each[4]) for each in found)
                self._answer = list(addresses), "", True  # type: ignore[arg-type]
            except (OSError, UnicodeError) as error:
                why = getattr(error, "strerror", None) or "it is no name"
                definite = isinstance(error, UnicodeError) or error.errno in _DEFINITE
                self._answer = [], f"cannot resolve {self._name}: {why}", definite

    def _looked_up(self, ours: socket.socket) -> None:
        """Callback: the thread is done."""
        assert self._watch is not None
        self._watch.forget()
        self._watch = None
        ours.close()
        self._alarm.cancel()
        waiting = [on_found for _, on_found in self._waiting]
        self._waiting.clear()
        addresses, why, definite = self._answer
        if not definite:
            self._lookup_failed(waiting, why)
            return
        self._known = addresses
        if addresses and not waiting:
            self._late_until = self._loop.now + LATE_ANSWER_LASTS
        for on_found in waiting:
            on_found(addresses, why)

    def _check_deadlines(self) -> None:
        """Callback of the alarm: attempts may have waited for long enough."""
        now = self._loop.now
        late = []
        while self._waiting and self._waiting[0][0] <= now:
            late.append(self._waiting.popleft()[1])
        if self._waiting:
            self._alarm.ring_by(self._waiting[0][0])
        waited = min(PATIENCE, self._timeout) if self._known else self._timeout
        self._lookup_failed(late, f"cannot resolve {self._name}: no answer within {waited:g} s")

    def _lookup_failed(self, waiting: Sequence[OnFound], why: str) -> None:
        """There is no answer for those `waiting`: they get the last known addresses, or `why`."""
        if self._known and waiting:
            self._on_error(f"{why}; its last known addresses are used")
            why = ""
        for on_found in waiting:
            on_found(self._known, why)


def fixed_address(address: str, port: int) -> Callable[[OnFound], None]:
    """A `find` for a host whose IPv4 address is in hosts.tab; it calls back at once."""
    return lambda on_found: on_found([(socket.AF_INET, (address, port))], "")
