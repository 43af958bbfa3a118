"""The UNIX side: who asks lonc, line by line, and hears the replies."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lonc.errors import CannotStart, LineTooLong
from lonc.event_loop import FORGOTTEN, READ, WRITE, EventLoop
from lonc.line_buffer import LineBuffer
from lonc.transaction import Transaction

BACKLOG = 4096  # while no child runs, connects wait here; the kernel's own limit may be lower
READ_AHEAD = 65536  # bytes taken from a client beyond its current line
ACCEPT_AGAIN = 0.1  # seconds until accepting is tried again where the machine has run out of something

CON_LOST = b"con_lost\n"
TOO_LONG = b"error: request too long\n"


class Services(Protocol):
    """What a client asks of the rest of the child."""

    maybe_own: tuple[bytes, ...]  # how what `answer` may know begins; all else goes to lond unseen

    def answer(self, request: bytes) -> bytes | None:
        """lonc's own reply to a request that begins like one for lonc itself; None: it is lond's."""

    def queue_transaction(self, transaction: Transaction) -> None: ...

    def drop_transaction(self, transaction: Transaction) -> None:
        """Nobody waits for it any more."""


def bind_listener(path: Path, mode: int) -> socket.socket:
    """A listening socket at `path`, there from one moment to the next and never with another mode.

    The caller holds the lock on the directory, so a socket that lies there is a dead daemon's.
    Raises CannotStart.
    """
    try:
        if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
            raise CannotStart(f"{path} is in the way, and no socket: remove it")
        return _listen(path, mode)
    except OSError as error:
        raise CannotStart(f"cannot listen at {path}: {error.strerror or error}") from error


def _listen(path: Path, mode: int) -> socket.socket:
    being_made = path.with_name("." + (path.name[1:] or "_"))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    umask = os.umask(0o777 & ~mode)
    try:
        being_made.unlink(missing_ok=True)
        listener.bind(str(being_made))
        listener.listen(BACKLOG)
        being_made.rename(path)
    except OSError:
        listener.close()
        with contextlib.suppress(OSError):
            being_made.unlink()
        raise
    finally:
        os.umask(umask)
    return listener


class Listener:
    """Accepts clients, `max_clients` at a time; whoever comes then waits in the backlog.

    Callbacks: `on_full(why)` whenever clients must wait; `on_drained()` when `drain` was called and the
    last client has left.
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
    ) -> None:
        self.clients: set[Client] = set()
        self._loop = loop
        self._socket = listening
        self._services = services
        self._max_clients = max_clients
        self._max_request = max_request
        self._on_full = on_full
        self._on_drained = on_drained
        self._draining = False
        self._watch = loop.watch(listening, self.new_client)

    def new_client(self) -> None:
        """Callback: somebody wants to connect."""
        if len(self.clients) >= self._max_clients:
            self._pause(f"{self._max_clients} clients are connected, the most: more must wait")
        while len(self.clients) < self._max_clients:
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._pause(f"cannot accept: {error.strerror}")
                self._loop.at(self._loop.now + ACCEPT_AGAIN, self._resume)
                return
            self.clients.add(
                Client(self._loop, connection, self._services, self._max_request, self._client_left)
            )

    def drain(self) -> None:
        """Accept nobody any more; let each client go when it has its replies."""
        self._draining = True
        self._watch.forget()
        for client in list(self.clients):
            client.drain()
        if not self.clients:
            self._on_drained()

    def _pause(self, why: str) -> None:
        self._watch.want(read=False)
        self._on_full(why)

    def _resume(self) -> None:
        if self._watch.events != FORGOTTEN:
            self._watch.want(read=True)

    def _client_left(self, client: Client) -> None:
        self.clients.remove(client)
        self._resume()
        if self._draining and not self.clients:
            self._on_drained()


class Client:
    """One local program: a line in, a line out, then the next.

    It is busy while its transaction runs or its reply has not all left; what it sends meanwhile is
    read ahead. When only its sending side is closed, it still gets its replies.
    """

    __slots__ = (
        "_ended",
        "_lines",
        "_on_left",
        "_services",
        "_serving",
        "_socket",
        "_transaction",
        "_unsent",
        "_watch",
    )

    def __init__(
        self,
        loop: EventLoop,
        connection: socket.socket,
        services: Services,
        max_request: int,
        on_left: Callable[[Client], None],
    ) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._services = services
        self._on_left = on_left
        self._lines = LineBuffer(max_request)
        self._transaction: Transaction | None = None
        self._unsent: bytes | memoryview = b""
        self._ended = False  # nothing more will be read
        self._serving = False
        self._watch = loop.watch(
            connection, self.client_request, self.client_writable, on_hangup=self.close
        )

    def client_request(self) -> None:
        """Callback: the client has sent something, or closed its sending side."""
        busy = self._transaction is not None or self._unsent
        try:
            data = self._socket.recv(READ_AHEAD - len(self._lines) if busy else READ_AHEAD)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._ended = True
        if busy:
            self._lines.feed(data)
            self._read_on()
        else:
            self._serve(data)

    def client_writable(self) -> None:
        """Callback: more of the reply can leave."""
        self._send(self._unsent)
        self._serve()

    def drain(self) -> None:
        """Serve what has arrived, and nothing that arrives later."""
        if self._watch.events == FORGOTTEN:
            return
        self._socket.shutdown(socket.SHUT_RD)
        if self._watch.events & READ:
            self.client_request()

    def close(self) -> None:
        """Let the client go; what it has in flight ends unheard."""
        if self._watch.events == FORGOTTEN:
            return
        self._watch.forget()
        self._socket.close()
        self._ended = True
        self._lines = LineBuffer(0)
        self._unsent = b""
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.abandon()
            self._services.drop_transaction(transaction)
        self._on_left(self)

    def _serve(self, data: bytes = b"") -> None:
        """Take line after line until one must wait, `data` having just arrived.

        Whatever comes back in here meanwhile, a reply given at once above all, is left to the loop that
        is already going: the stack does not grow with the lines.
        """
        if self._serving:
            self._lines.feed(data)
            return
        self._serving = True
        while self._transaction is None and not self._unsent:
            try:
                line = self._lines.next_line(data)
                data = b""
            except LineTooLong:
                self._ended = True
                self._lines = LineBuffer(0)
                self._send(TOO_LONG)
                break
            if line is None:
                break
            if (
                line.startswith(self._services.maybe_own)
                and (answer := self._services.answer(line)) is not None
            ):
                self._send(answer)
                continue
            self._transaction = Transaction(line, self._reply, self._failure)
            self._services.queue_transaction(self._transaction)
        self._serving = False
        if self._ended or self._lines.rest or self._watch.events != READ:
            self._read_on()

    def _read_on(self) -> None:
        """Read only what there is room for; leave when nothing more can come or go."""
        busy = self._transaction is not None or self._unsent
        if self._ended and not busy:
            self.close()
        elif self._watch.events != FORGOTTEN:
            self._watch.want(read=not self._ended and not (busy and len(self._lines) >= READ_AHEAD))

    def _reply(self, reply: bytes) -> None:
        self._transaction = None
        self._send(reply)
        if self._lines.rest or self._ended:
            self._serve()

    def _failure(self, _: str) -> None:
        self._reply(CON_LOST)

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._unsent = memoryview(data)[sent:] if sent < len(data) else b""
        if self._unsent:
            self._watch.want(write=True)
        elif self._watch.events & WRITE:
            self._watch.want(write=False)
