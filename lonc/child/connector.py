"""Connects to one of a host's addresses; beside one that does not answer soon the next is tried.

This is RFC 8305 ("Happy Eyeballs") for the part after the lookup: an address that drops our packets,
as IPv6 ones do behind some firewalls, delays a connection by NEXT_AFTER.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from lonc.child.resolver import Address, OnFound
from lonc.runtime.event_loop import WRITE, Deadline, EventLoop, Watch

NEXT_AFTER = 0.25  # seconds; the Connection Attempt Delay that RFC 8305 recommends in section 5

OnConnected = Callable[[socket.socket, str], None]  # the socket, and lond's address without its port


class Connector:
    """Starts attempts to connect to one host, and remembers which of its addresses worked last.

    - `find(on_found)` finds the addresses;
    - `bind_address` is the local address to connect from, or None;
    - `timeout` is the longest time to connect to each address, in seconds.
    """

    def __init__(
        self,
        loop: EventLoop,
        find: Callable[[OnFound], None],
        bind_address: str | None,
        timeout: float,
    ) -> None:
        self.loop = loop
        self.find = find
        self.timeout = timeout
        self.worked_last: Address | None = None
        self._bind_address = bind_address

    def attempt(self, on_connected: OnConnected, on_failed: Callable[[str], None]) -> Attempt:
        """An attempt that has not started yet; Attempt explains the callbacks."""
        return Attempt(self, on_connected, on_failed)

    def open_socket(self, family: int) -> socket.socket | str:
        """A socket for a connection, or a sentence why there is none."""
        try:
            made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            return f"cannot make a socket: {error.strerror}"
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._bind_address is not None:
                made.bind((self._bind_address, 0))
        except OSError as error:
            made.close()
            return f"cannot connect from {self._bind_address}: {error.strerror}"
        return made


class Attempt:
    """One attempt: addresses are tried until the first connects; the others are closed.

    The next address is tried when one has failed, or NEXT_AFTER seconds after the one before.

    Callbacks, of which one is called once, perhaps before `start` returns:

    - `on_connected(socket, address)`: the socket belongs to the callee;
    - `on_failed(why)`: `why` has a sentence for each address.
    """

    __slots__ = ("_connector", "_failures", "_next", "_on_connected", "_on_failed", "_tries", "_untried")

    def __init__(
        self, connector: Connector, on_connected: OnConnected, on_failed: Callable[[str], None]
    ) -> None:
        self._connector = connector
        self._on_connected = on_connected
        self._on_failed: Callable[[str], None] | None = on_failed  # None after the end
        self._untried: deque[Address] = deque()
        self._tries: list[_Try] = []  # under way
        self._next: Deadline | None = None
        self._failures: list[str] = []

    def start(self) -> None:
        """Find the addresses and connect."""
        self._connector.find(self._found)

    def cancel(self) -> None:
        """Close what is under way and call nothing any more. A second time does nothing."""
        self._on_failed = None
        self._cancel_next()
        tries, self._tries = self._tries, []
        for each in tries:
            each.stop_waiting()
            each.socket.close()

    def _found(self, addresses: Sequence[Address], why_none: str) -> None:
        """Callback: the host's addresses, or why there are none."""
        if self._on_failed is None:
            return
        if why_none:
            self._failures.append(why_none)
        self._untried.extend(in_order(addresses, self._connector.worked_last))
        self._try_next()

    def _try_next(self) -> None:
        """Try the next address that is left; after the last one has failed, report that."""
        self._cancel_next()
        while self._untried and not self._begin(self._untried.popleft()):
            pass
        if self._untried:
            self._next = self._connector.loop.after(NEXT_AFTER, self._try_next)
        elif not self._tries and (on_failed := self._on_failed) is not None:
            self._on_failed = None
            on_failed("; ".join(self._failures))

    def _begin(self, address: Address) -> bool:
        """Begin to connect to it. Returns whether that is under way now."""
        made = self._connector.open_socket(address[0])
        if isinstance(made, str):
            self._failures.append(made)
            return False
        refusal = made.connect_ex(address[1])
        if refusal not in (0, errno.EINPROGRESS):
            made.close()
            self._failures.append(_sentence(address, os.strerror(refusal)))
            return False
        loop, timeout = self._connector.loop, self._connector.timeout
        new = _Try(address, made)
        new.watch = loop.watch(made, _never, partial(self._completed, new), events=WRITE)
        late = partial(self._failed, new, f"no answer within {timeout:g} s")
        new.deadline = loop.after(timeout, late)
        self._tries.append(new)
        return True

    def _completed(self, done: _Try) -> None:
        """Callback: it has connected or failed."""
        refusal = done.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if refusal:
            self._failed(done, os.strerror(refusal))
            return
        done.stop_waiting()
        self._tries.remove(done)
        self.cancel()
        self._connector.worked_last = done.address
        self._on_connected(done.socket, done.address[1][0])

    def _failed(self, done: _Try, why: str) -> None:
        done.stop_waiting()
        done.socket.close()
        self._tries.remove(done)
        self._failures.append(_sentence(done.address, why))
        self._try_next()

    def _cancel_next(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None


class _Try:
    """A socket that connects to one address."""

    __slots__ = ("address", "deadline", "socket", "watch")

    watch: Watch
    deadline: Deadline

    def __init__(self, address: Address, connecting: socket.socket) -> None:
        self.address = address
        self.socket = connecting

    def stop_waiting(self) -> None:
        self.watch.forget()
        self.deadline.cancel()


def in_order(addresses: Iterable[Address], worked_last: Address | None) -> list[Address]:
    """`addresses` in the order in which to try them.

    `worked_last` is the first if it is among them. Then the families alternate (RFC 8305, section 4),
    each in the order of the resolver; else several addresses of a family that does not work would each
    cost a delay.
    """
    left = list(dict.fromkeys(addresses))
    if not left:
        return []
    first = left[0]
    if worked_last is not None and worked_last in left:
        first = worked_last
    ordered: list[Address] = []
    while left:
        if ordered:
            other = (each for each in left if each[0] != ordered[-1][0])
            first = next(other, left[0])
        left.remove(first)
        ordered.append(first)
    return ordered


def _sentence(address: Address, why: str) -> str:
    return f"cannot connect to {address[1][0]} port {address[1][1]}: {why}"


def _never() -> None:
    raise AssertionError("a socket that connects is watched for writing only")
