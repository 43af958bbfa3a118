"""Where a host is: its address in the table, or what its name resolves to, asked off the loop."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from functools import partial

from lonc.runtime.event_loop import READ, EventLoop, Watch

Address = tuple[int, tuple[str, int] | tuple[str, int, int, int]]  # family, and what connect takes
Found = Callable[[Sequence[Address], str], None]  # in the order to be tried; if none, why


class Resolver:
    """Asks for a name's addresses each time it is used, never twice at once.

    A resolver that hangs holds one thread, and nobody but who waits for this name.
    """

    def __init__(self, loop: EventLoop, name: str, port: int, ipv4_only: bool) -> None:
        self._loop = loop
        self._name = name
        self._port = port
        self._family = socket.AF_INET if ipv4_only else socket.AF_UNSPEC
        self._waiting: list[Found] = []
        self._answer: tuple[Sequence[Address], str] = [], ""
        self._watch: Watch | None = None  # of what the thread closes when it has an answer

    def find(self, on_found: Found) -> None:
        """Call back, later and in the loop."""
        if self._watch is None:
            try:
                self._begin()
            except (OSError, RuntimeError) as error:  # no descriptor is free, or no thread
                self._loop.after(0, partial(on_found, [], f"cannot resolve {self._name}: {error}"))
                return
        self._waiting.append(on_found)

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            threading.Thread(target=self._ask, args=(theirs,), daemon=True).start()
        except RuntimeError:
            ours.close()
            theirs.close()
            raise
        self._watch = self._loop.watch(ours, lambda: self._answered(ours), events=READ)

    def _ask(self, done: socket.socket) -> None:
        """In the thread."""
        with done:
            try:
                found = socket.getaddrinfo(self._name, self._port, self._family, socket.SOCK_STREAM)
                self._answer = [(each[0], each[4]) for each in found], ""  # type: ignore[misc]
            except (OSError, UnicodeError) as error:
                why = getattr(error, "strerror", None) or "it is no name"
                self._answer = [], f"cannot resolve {self._name}: {why}"

    def _answered(self, ours: socket.socket) -> None:
        assert self._watch is not None
        self._watch.forget()
        self._watch = None
        ours.close()
        waiting, self._waiting = self._waiting, []
        for on_found in waiting:
            on_found(*self._answer)


def known(address: str, port: int) -> Callable[[Found], None]:
    """What finds an address that the table names."""
    return lambda on_found: on_found([(socket.AF_INET, (address, port))], "")
