"""A small HTTP server for the exporter, in one thread around one loop.

No client can hold it up: a client that has not sent its request after FINISH_WITHIN, or has not read the
reply after as long again, is disconnected, and so is the oldest if more than MAX_CLIENTS are connected.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable

from lonc.runtime.event_loop import FORGOTTEN, EventLoop
from lonc.runtime.socket_file import RETRY_ACCEPT

FINISH_WITHIN = 10.0  # seconds
MAX_CLIENTS = 32
MAX_HEAD = 16384  # bytes of a request; one without a body is all that is read
BACKLOG = 128

_RECEIVE_SIZE = 4096
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) ([!-~]+) HTTP/1\.[0-9]")

Headers = list[tuple[str, str]]
Application = Callable[[dict[str, str], Callable[[str, Headers], object]], Iterable[bytes]]


class MetricsServer:
    """Serves the WSGI application `application` at `listening`, which it owns, until `close`."""

    def __init__(self, loop: EventLoop, listening: socket.socket, application: Application) -> None:
        listening.setblocking(False)
        self.application = application
        self.clients: dict[_Client, None] = {}  # in the order of their arrival
        self._loop = loop
        self._listening = listening
        self._watch = loop.watch(listening, self._accept)

    def close(self) -> None:
        self._watch.forget()
        self._listening.close()
        for client in list(self.clients):
            client.close()

    def _accept(self) -> None:
        """Callback. One at a time, so that each is read before it can be the oldest."""
        try:
            connection, _ = self._listening.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor is free, or no memory
            self._disconnect_oldest()
            self._watch.want(read=False)
            self._loop.after(RETRY_ACCEPT, self._resume)
            return
        if len(self.clients) >= MAX_CLIENTS:
            self._disconnect_oldest()
        self.clients[_Client(self._loop, connection, self)] = None

    def _disconnect_oldest(self) -> None:
        if self.clients:
            next(iter(self.clients)).close()

    def _resume(self) -> None:
        if self._watch.events != FORGOTTEN:
            self._watch.want(read=True)


class _Client:
    """Reads one request, sends one reply, and closes."""

    def __init__(self, loop: EventLoop, connection: socket.socket, server: MetricsServer) -> None:
        connection.setblocking(False)
        self._loop = loop
        self._socket = connection
        self._server = server
        self._head = bytearray()
        self._unsent = memoryview(b"")
        self._deadline = loop.after(FINISH_WITHIN, self.close)
        self._watch = loop.watch(connection, self._readable, self._writable)

    def close(self) -> None:
        """Idempotent."""
        if self._watch.events != FORGOTTEN:
            self._watch.forget()
            self._deadline.cancel()
            self._socket.close()
            del self._server.clients[self]

    def _readable(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._head += data
        if not data:
            self.close()
        elif (end := _END_OF_HEAD.search(self._head)) is not None:
            self._reply(_response(self._server.application, bytes(self._head[: end.start()])))
        elif len(self._head) > MAX_HEAD:
            self._reply(_encode("431 Request Header Fields Too Large", [], b""))

    def _reply(self, response: bytes) -> None:
        self._deadline.cancel()
        self._deadline = self._loop.after(FINISH_WITHIN, self.close)
        self._unsent = memoryview(response)
        self._watch.want(read=False, write=True)
        self._writable()

    def _writable(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self._unsent:
            self.close()


def _response(application: Application, head: bytes) -> bytes:
    """The reply of `application` to a request, without its blank line."""
    first, *fields = re.split(rb"\r?\n", head)
    request = _REQUEST_LINE.fullmatch(first)
    if request is None:
        return _encode("400 Bad Request", [], b"")
    path, _, query = request[2].decode().partition("?")
    environ = {"REQUEST_METHOD": request[1].decode(), "PATH_INFO": path, "QUERY_STRING": query}
    for field in fields:
        name, _, value = field.decode("latin-1").partition(":")
        if name.lower() in ("accept", "accept-encoding"):
            environ[f"HTTP_{name.upper().replace('-', '_')}"] = value.strip()
    started: list[tuple[str, Headers]] = []
    body = b"".join(application(environ, lambda status, headers: started.append((status, headers))))
    (status, headers), *_ = started
    return _encode(status, headers, body)


def _encode(status: str, headers: Headers, body: bytes) -> bytes:
    fields = [*headers, ("Content-Length", str(len(body))), ("Connection", "close")]
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
