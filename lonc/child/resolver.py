"""Finds a host's addresses: the one in hosts.tab, or those of its name, resolved in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial

from lonc.runtime.event_loop import READ, EventLoop, Watch

Address = tuple[int, tuple[str, int] | tuple[str, int, int, int]]  # family, argument of connect
OnFound = Callable[[Sequence[Address], str], None]  # addresses in order; if there are none, the reason


class Resolver:
    """Resolves a name anew for each attempt to connect; simultaneous attempts share one lookup.

    A resolver that hangs costs one thread, and delays only the attempts that need this name.
    """

    def __init__(self, loop: EventLoop, name: str, port: int, ipv4_only: bool) -> None:
        self._loop = loop
        self._name = name
        self._port = port
        self._family = socket.AF_INET if ipv4_only else socket.AF_UNSPEC
        self._waiting: list[OnFound] = []
        self._answer: tuple[Sequence[Address], str] = [], ""
        self._watch: Watch | None = None  # of a socket whose other end the thread closes when it is done

    def find(self, on_found: OnFound) -> None:
        """Start a lookup, or join the one under way; `on_found` is called from the loop, never here."""
        if self._watch is None:
            try:
                self._start_lookup()
            except (OSError, RuntimeError) as error:  # no descriptor is free, or no thread
                self._loop.after(0, partial(on_found, [], f"cannot resolve {self._name}: {error}"))
                return
        self._waiting.append(on_found)

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
                self._answer = [(each[0], each[4]) for each in found], ""  # type: ignore[misc]
            except (OSError, UnicodeError) as error:
                why = getattr(error, "strerror", None) or "it is no name"
                self._answer = [], f"cannot resolve {self._name}: {why}"

    def _looked_up(self, ours: socket.socket) -> None:
        """Callback: the thread is done."""
        assert self._watch is not None
        self._watch.forget()
        self._watch = None
        ours.close()
        waiting, self._waiting = self._waiting, []
        for on_found in waiting:
            on_found(*self._answer)


def fixed_address(address: str, port: int) -> Callable[[OnFound], None]:
    """A `find` for a host whose IPv4 address is in hosts.tab; it calls back at once."""
    return lambda on_found: on_found([(socket.AF_INET, (address, port))], "")
