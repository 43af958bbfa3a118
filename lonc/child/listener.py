"""The UNIX socket of one host: accepts its clients, and passes them on when this child leaves."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from lonc.child.client import Client, Passing, Services
from lonc.runtime.event_loop import FORGOTTEN, HANGUP_ONLY, READ, EventLoop
from lonc.runtime.socket_file import RETRY_ACCEPT

IDLE_LOOKS = 10  # at clients that may be idle, in each `idle_timeout`


class NextChild(Protocol):
    """The child that takes over the clients of this one."""

    def announce(self, count: int) -> None:
        """From now on at most `count` clients may still be passed on."""

    def pass_on(self, passing: Passing) -> None: ...


class Listener:
    """Accepts clients, at most `max_clients` at a time; more wait in the backlog.

    Of one user it accepts at most `max_per_user`: for a further one the client of that user that has
    been idle longest is disconnected, or, if none is idle, the further one. A client that has no request
    in flight is disconnected after `idle_timeout` seconds.

    `listening` is closed as soon as this child accepts no more: otherwise clients in the backlog of a
    removed host would wait until its last request has ended.

    A listener that `has_predecessor` accepts nobody until `expect` says how many clients may still be
    passed on to it. They count as clients, because each needs a descriptor.

    Callbacks: `on_full(why)` whenever clients must wait; `on_no_clients()` when the last client has
    left; `on_drained()` once, when `drain` or `leave` was called, the last client has left and none is
    expected.
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
        on_no_clients: Callable[[], None],
        has_predecessor: bool = False,
        max_per_user: float = math.inf,
        idle_timeout: float = math.inf,
    ) -> None:
        self.clients: dict[Client, int] = {}  # with their users, in the order of their arrival
        self.expected: int | None = None if has_predecessor else 0  # None: not announced yet
        self._loop = loop
        self._socket = listening
        self._services = services
        self._max_clients = max_clients
        self._max_request = max_request
        self._on_full = on_full
        self._on_drained = on_drained
        self._on_no_clients = on_no_clients
        self._draining = False
        self._accept_failed = False
        self._next_child: NextChild | None = None
        self._max_per_user = max_per_user
        self._of_user: Counter[int] = Counter()  # number of clients by user
        self._idle_timeout = idle_timeout
        self._idle_alarm = loop.alarm(self._disconnect_idle)
        self._watch = loop.watch(
            listening, self.new_client, events=HANGUP_ONLY if has_predecessor else READ
        )

    def new_client(self) -> None:
        """Callback: clients wait to be accepted."""
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
                self._accept_failed = True
                self._pause(f"cannot accept: {error.strerror}")
                self._loop.after(RETRY_ACCEPT, self.descriptor_closed)
                return
            client = self._add(connection)
            user = self.clients[client]
            if self._of_user[user] > self._max_per_user:
                if not self._make_room(user, client):
                    why = f"user {user} has {self._max_per_user} clients, all busy: one is refused"
                    self._on_full(why)
                    client.close()
                return  # other events first: the number of clients does not bound this loop any more

    def expect(self, count: int) -> None:
        """At most `count` clients may still be passed on to this child."""
        self.expected = count
        self._announce()
        self._resume()
        self._check_drained()

    def descriptor_closed(self) -> None:
        """Accept again if the last attempt failed: it may succeed now."""
        if self._accept_failed:
            self._accept_failed = False
            self._resume()

    def adopt(self, passing: Passing) -> None:
        """Continue to serve a client of the previous child, or pass it on if this child is leaving."""
        if self.expected:
            self.expected -= 1
        if self._next_child is not None:
            self._next_child.pass_on(passing)
            return
        client = self._add(passing.connection)
        client.resume(passing)
        if self._draining:
            client.drain()

    def leave(self, next_child: NextChild) -> None:
        """Accept no more; pass each client on as soon as it has no request in flight."""
        self._next_child = next_child
        self._stop_accepting()
        self._announce()
        for client in list(self.clients):
            if self._next_child is next_child:  # else it has ended meanwhile, and `drain` was called
                client.leave(next_child.pass_on)
        self._check_drained()

    def drain(self) -> None:
        """Accept no more, pass none on; disconnect each client after the replies to what it has sent."""
        self._next_child = None
        self._stop_accepting()
        for client in list(self.clients):
            client.drain()
        self._check_drained()

    def _stop_accepting(self) -> None:
        self._draining = True
        if self._watch.events != FORGOTTEN:
            self._watch.forget()
            self._socket.close()

    def _announce(self) -> None:
        if self._next_child is not None:
            self._next_child.announce(len(self.clients) + (self.expected or 0))

    def _add(self, connection: socket.socket) -> Client:
        client = Client(self._loop, connection, self._services, self._max_request, self._client_left)
        user, _ = client.owner
        self.clients[client] = user
        self._of_user[user] += 1
        if self._idle_timeout < math.inf:
            self._idle_alarm.ring_by(self._loop.now + self._idle_timeout)
        return client

    def _make_room(self, user: int, new: Client) -> bool:
        """Disconnect the client of `user` that has been idle longest; False if only `new` is idle."""
        idle = [
            client
            for client, its_user in self.clients.items()
            if its_user == user and client.is_idle and client is not new
        ]
        if not idle:
            return False
        min(idle, key=lambda client: client.active).drain()  # serves a line that has just arrived
        return True

    def _disconnect_idle(self) -> None:
        """Callback of the alarm."""
        now, timeout = self._loop.now, self._idle_timeout
        for client in list(self.clients):
            if not client.in_flight and client.active + timeout <= now:
                client.drain() if client.is_idle else client.close()
        if self.clients:
            first = min(client.active for client in self.clients)
            # Seldom enough that looking at all of them costs nothing.
            self._idle_alarm.ring_by(max(first + timeout, now + timeout / IDLE_LOOKS))

    def _pause(self, why: str) -> None:
        self._watch.want(read=False)
        self._on_full(why)

    def _resume(self) -> None:
        if self._watch.events != FORGOTTEN and self.expected is not None:
            self._watch.want(read=True)

    def _client_left(self, client: Client) -> None:
        """Callback: a client has left or was passed on."""
        user = self.clients.pop(client)
        self._of_user[user] -= 1
        if not self._of_user[user]:
            del self._of_user[user]
        self._accept_failed = False
        self._announce()
        self._resume()
        if not self.clients:
            self._on_no_clients()
        self._check_drained()

    def _check_drained(self) -> None:
        if self._draining and not self.clients and self.expected == 0:
            on_drained, self._on_drained = self._on_drained, _already_called
            on_drained()


def _already_called() -> None:
    pass
