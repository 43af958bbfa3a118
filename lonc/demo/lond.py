"""A small lond for demonstrations and tests: lond's side of the dialogues, and a few commands.

    ping                     the host id of this lond; if it has several, the one set last by sethost
    pong                     the client's host id
    version                  the version of lonc
    sethost:ID               ok if ID is a host id of this lond, else refused
    sethost:ID:X             sets ID, then the reply to X
    load                     the load average of the last minute
    echo:X                   X
    put:D:U:NS:k=v&k=v       ok
    get:D:U:NS:k&k           the values joined by &, empty where missing
    del:D:U:NS:k&k           ok
    dump:D:U:NS              k=v&k=v
    auth:D:U:P               authorized if P is what put:D:U:passwd:password=P stored, else
                             non_authorized; refused unless it came encrypted
    connections              NOW:MOST, the number of connections now, and the highest so far
    anything else            unknown_cmd

Values are bytes and are stored as they were sent. They are kept in SQLite: in memory, or in a file.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import sqlite3
import stat
import time
from collections.abc import Callable
from pathlib import Path

from lonc import __version__
from lonc.configuration import Settings
from lonc.demo.store import Store
from lonc.errors import CannotStart, ProtocolError
from lonc.escape import escaped
from lonc.hosts import Host
from lonc.runtime.channel import Channel
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.line_buffer import LineBuffer
from lonc.runtime.socket_file import RETRY_ACCEPT
from lonc.wire.cipher import KEY_BYTES, LineCipher, shared_key
from lonc.wire.key_exchange import LOCALHOST, is_asked_locally
from lonc.wire.tls import Tunnel, server_context

BUILD_KEY_BYTES = 15  # 30 hex digits, as the original lond's
BACKLOG = 128


class DemoLond:
    """A lond for `host`, listening at `londPort` of the host's address, or of 127.0.0.1 if lonc asks the
    host there.

    `database`: a file for the data; None keeps them in memory. Every client is assumed to be the machine
    of `lonHostID`. Raises CannotStart if the host has no address or if listening fails.
    """

    def __init__(self, host: Host, settings: Settings, database: Path | None) -> None:
        address = LOCALHOST if is_asked_locally(host, settings) else host.address
        if address is None:
            raise CannotStart(f"{host.id} has no address in the table to serve at")
        certificates = settings.certificates
        self.context = None if certificates is None else server_context(certificates)
        self.allow_insecure = settings.allow_insecure
        self.ids = [id_.encode() for id_ in host.ids]
        self.host_id = host.id
        self.client_id = settings.host_id
        self.max_line = (
            2 * max(settings.max_request, settings.max_reply) + 64
        )  # hex digits double a line's length
        self.sessions: set[Session] = set()
        self.most_sessions = 0
        self.store = Store(database)
        self._loop = EventLoop()
        self._listen_address = f"{address} port {settings.lond_port}"
        self._socket = socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((address, settings.lond_port))
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            self.store.close()
            raise CannotStart(f"cannot listen at {self._listen_address}: {error.strerror}") from error
        self._watch = self._loop.watch(self._socket, self._accept)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then close every connection and the database."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._loop.on_signal(signum, self._loop.stop)
        print(f"{self.host_id} listens at {self._listen_address}", flush=True)
        self._loop.run()
        for session in list(self.sessions):
            session.close()
        self.store.close()
        self._socket.close()
        self._loop.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except BlockingIOError:
            return
        except OSError:  # out of descriptors or memory: try again after a delay
            self._watch.want(read=False)
            self._loop.after(RETRY_ACCEPT, lambda: self._watch.want(read=True))
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sessions.add(Session(self, self._loop, connection))
        self.most_sessions = max(self.most_sessions, len(self.sessions))


class Session:
    """One client's connection.

    `_handle_line` handles the next line; the handlers follow the dialogue: init, challenge, ekey, then
    requests.
    """

    def __init__(self, lond: DemoLond, loop: EventLoop, connection: socket.socket) -> None:
        self._lond = lond
        self._id = lond.ids[0]
        self._challenge = b"%d%d\n" % (os.getpid(), time.time())
        self._cipher: LineCipher | None = None
        self._tunnel: Tunnel | None = None  # only during the key exchange in TLS
        self._lines = LineBuffer(lond.max_line)
        self._handle_line: Callable[[bytes], None] = self._on_init
        self._channel = Channel(loop, connection, self._on_line, self.close, lines=self)

    def feed(self, data: bytes) -> None:
        """Take bytes from the channel; during the key exchange in TLS, pass them through the tunnel."""
        if self._tunnel is not None:
            try:
                data = self._tunnel.receive(data)
            except ProtocolError as error:
                print(f"closed a connection: {escaped(str(error))}", flush=True)
                self._channel.send(self._tunnel.data_to_send())  # the TLS alert with the reason
                self.close()
                return
            if out := self._tunnel.data_to_send():
                self._channel.send(out)
        if data:
            self._tunnel = None
            self._lines.feed(data)

    def next_line(self) -> bytes | bytearray | None:
        return self._lines.next_line()

    def _on_line(self, line: bytes) -> None:
        self._handle_line(line)

    def _on_init(self, line: bytes) -> None:
        word, _, more = line[:-1].partition(b":")
        mode, _, rest = more.partition(b":")
        if word != b"init":
            self._refuse()
        elif mode == b"local":
            self._use_key_file(rest.rpartition(b":")[0])
        elif mode == b"ssl" and self._lond.context is not None:
            key = secrets.token_hex(KEY_BYTES).encode()
            self._channel.send(b"ok:ssl\n")
            self._tunnel = Tunnel(self._lond.context, None, key)
            self._key_agreed(key)
        elif self._lond.allow_insecure:  # also the answer to init:ssl if there is no certificate
            self._channel.send(self._challenge)
            self._handle_line = self._on_challenge
        else:
            self._refuse()

    def _use_key_file(self, file: bytes) -> None:
        try:
            key = _take_key(file)
        except (OSError, ValueError) as error:
            print(f"the key file {os.fsdecode(file)!r} is rejected: {escaped(str(error))}", flush=True)
            self._refuse()
        else:
            self._channel.send(b"ok:local\n")
            self._key_agreed(key)

    def _key_agreed(self, key: bytes) -> None:
        self._cipher = LineCipher(bytes.fromhex(key.decode()))
        self._handle_line = self._on_request

    def _on_challenge(self, line: bytes) -> None:
        if line == self._challenge:
            self._channel.send(b"ok\n")
            self._handle_line = self._on_ekey
        else:
            self._refuse()

    def _on_ekey(self, line: bytes) -> None:
        if line == b"ekey\n":
            build_key = secrets.token_hex(BUILD_KEY_BYTES).upper().encode() + b"\n"
            self._channel.send(build_key)
            key = shared_key(self._lond.host_id, self._lond.client_id, build_key)
            self._cipher = LineCipher(key)
            self._handle_line = self._on_request
        elif line.startswith((b"version\n", b"sethost:")):
            self._on_request(line)
        else:
            self._refuse()

    def _on_request(self, line: bytes) -> None:
        if line.startswith(b"sethost:"):
            _, id_, *request_behind = line[:-1].split(b":", 2)
            if id_ not in self._lond.ids:
                self._channel.send(b"refused\n")
                return
            self._id = id_
            if not request_behind:
                self._channel.send(b"ok\n")
                return
            line = request_behind[0] + b"\n"
        if not line.startswith(b"enc:"):
            self._channel.send(self._reply(line[:-1], encrypted=False) + b"\n")
            return
        if self._cipher is None:  # `sethost:ID:enc:...` in place of ekey: there is no key yet
            self._refuse()
            return
        try:
            request = bytes(self._cipher.decipher(line))
        except ProtocolError:
            self._refuse()
            return
        self._channel.send(bytes(self._cipher.encipher(self._reply(request, encrypted=True))))

    def _reply(self, request: bytes, *, encrypted: bool) -> bytes:
        command, _, rest = request.partition(b":")
        try:
            match command:
                case b"echo":
                    return rest
                case b"ping":
                    return self._id
                case b"pong":
                    return self._lond.client_id.encode()
                case b"version":
                    return __version__.encode()
                case b"load":
                    return b"%.2f" % os.getloadavg()[0]
                case b"connections":
                    return b"%d:%d" % (len(self._lond.sessions), self._lond.most_sessions)
                case b"put" | b"get" | b"del" | b"dump":
                    return self._data_reply(command, rest.split(b":", 3))
                case b"auth":
                    return self._auth_reply(rest.split(b":", 2)) if encrypted else b"refused"
        except ValueError:
            return b"error: %b has too few fields" % command
        except sqlite3.Error as error:
            return f"error: {error}".encode()
        return b"unknown_cmd"

    def _data_reply(self, command: bytes, fields: list[bytes]) -> bytes:
        store = self._lond.store
        if command == b"dump":
            domain, user, namespace = fields
            return b"&".join(b"%b=%b" % item for item in store.dump([domain, user, namespace]))
        *place, data = fields
        if len(place) != 3:
            raise ValueError
        words = data.split(b"&")
        if command == b"get":
            return b"&".join(store.get(place, key) for key in words)
        if command == b"put":
            store.put(place, [(key, value) for key, _, value in (w.partition(b"=") for w in words)])
        else:
            store.delete(place, words)
        return b"ok"

    def _auth_reply(self, fields: list[bytes]) -> bytes:
        domain, user, password = fields
        stored = self._lond.store.get([domain, user, b"passwd"], b"password")
        matches = stored != b"" and secrets.compare_digest(stored, password)
        return b"authorized" if matches else b"non_authorized"

    def _refuse(self) -> None:
        self._channel.send(b"refused\n")
        self.close()

    def close(self) -> None:
        self._channel.close()
        self._lond.sessions.discard(self)


def _take_key(file: bytes) -> bytes:
    """Read the key, in hex, from the file that lonc wrote, and remove the file.

    Raises OSError, and ValueError if the file does not hold a key or if other users can access it.
    """
    fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        attributes = os.fstat(fd)
        if not stat.S_ISREG(attributes.st_mode) or attributes.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError("it is not a regular file that only its owner can access")
        key = os.read(fd, 2 * KEY_BYTES + 1)
    finally:
        os.close(fd)
    if not re.fullmatch(rb"[0-9A-Fa-f]{32}", key):
        raise ValueError("it is not 32 hex digits")
    os.unlink(file)
    return key
