"""The UNIX socket of one host: takes its clients in, and hands them on when it is given up."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from lonc.child.client import Client, Passing, Services
from lonc.runtime.event_loop import FORGOTTEN, HANGUP_ONLY, READ, EventLoop

ACCEPT_AGAIN = 0.1  # seconds until accepting is tried again where the machine has run out of something


class NextChild(Protocol):
    """Where a leaving child's clients go."""

    def announce(self, count: int) -> None:
        """So many may still come, from now on."""

    def pass_on(self, passing: Passing) -> None: ...


class Listener:
    """Accepts clients, `max_clients` at a time; whoever comes then waits in the backlog.

    `listening` is closed as soon as nobody is to be accepted here any more.

    A listener that `succeeds` another accepts nobody until `expect` says how many may still be passed
    on to it: they count as clients, or there might be more than there are descriptors for.

    Callbacks: `on_full(why)` whenever clients must wait; `on_quiet()` when the last one has left; once
    `on_drained()`, when `drain` or `leave` was called, the last client has gone, and none is expected.
    """

    def __init__(
        self,
        loop: EventLoop,
        listening: socket.socket,
        services: Services,
        *,
        max_clients: int,
        max_request: int,
        on_full: Callable[[str], None],
        on_drained: Callable[[], None],
        on_quiet: Callable[[], None],
        succeeds: bool = False,
    ) -> None:
        self.clients: dict[Client, None] = {}  # in the order in which they came
        self.expected: int | None = None if succeeds else 0  # None: nobody has said yet
        self._loop = loop
        self._socket = listening
        self._services = services
        self._max_clients = max_clients
        self._max_request = max_request
        self._on_full = on_full
        self._on_drained = on_drained
        self._on_quiet = on_quiet
        self._draining = False
        self._starved = False  # accepting has failed
        self._next_child: NextChild | None = None
        self._watch = loop.watch(listening, self.new_client, events=HANGUP_ONLY if succeeds else READ)

    def new_client(self) -> None:
        """Callback: somebody wants to connect."""
        assert self.expected is not None
        room = self._max_clients - self.expected
        if len(self.clients) >= room:
            self._pause(f"{self._max_clients} clients are connected, the most: more must wait")
        while len(self.clients) < room:
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._starved = True
                self._pause(f"cannot accept: {error.strerror}")
                self._loop.after(ACCEPT_AGAIN, self.descriptor_closed)
                return
            self._add(connection)

    def expect(self, count: int) -> None:
        """As many clients as that may still be passed on to us; 0 once there is nobody who could."""
        self.expected = count
        self._tell_next_child()
        self._resume()
        self._perhaps_drained()

    def descriptor_closed(self) -> None:
        """Where accepting has failed for want of one: now it may not."""
        if self._starved:
            self._starved = False
            self._resume()

    def adopt(self, passing: Passing) -> None:
        """Go on with a client that another child had before."""
        if self.expected:
            self.expected -= 1
        if self._next_child is not None:
            self._next_child.pass_on(passing)
            return
        client = self._add(passing.connection)
        client.go_on(passing)
        if self._draining:
            client.drain()

    def leave(self, next_child: NextChild) -> None:
        """Accept nobody any more; pass each client on as soon as it has no request in flight."""
        self._next_child = next_child
        self._accept_no_more()
        self._tell_next_child()
        for client in list(self.clients):
            if self._next_child is next_child:  # else that child has just ended, and we drain
                client.leave(next_child.pass_on)
        self._perhaps_drained()

    def drain(self) -> None:
        """Accept nobody any more, pass nobody on; let each client go when it has its replies."""
        self._next_child = None
        self._accept_no_more()
        for client in list(self.clients):
            client.drain()
        self._perhaps_drained()

    def _accept_no_more(self) -> None:
        self._draining = True
        if self._watch.events != FORGOTTEN:
            self._watch.forget()
            self._socket.close()

    def _tell_next_child(self) -> None:
        if self._next_child is not None:
            self._next_child.announce(len(self.clients) + (self.expected or 0))

    def _add(self, connection: socket.socket) -> Client:
        client = Client(self._loop, connection, self._services, self._max_request, self._client_left)
        self.clients[client] = None
        return client

    def _pause(self, why: str) -> None:
        self._watch.want(read=False)
        self._on_full(why)

    def _resume(self) -> None:
        if self._watch.events != FORGOTTEN and self.expected is not None:
            self._watch.want(read=True)

    def _client_left(self, client: Client) -> None:
        del self.clients[client]
        self._starved = False
        self._tell_next_child()  # it may have gone without being passed on
        self._resume()
        if not self.clients:
            self._on_quiet()
        self._perhaps_drained()

    def _perhaps_drained(self) -> None:
        if self._draining and not self.clients and self.expected == 0:
            on_drained, self._on_drained = self._on_drained, _told_already
            on_drained()


def _told_already() -> None:
    pass
