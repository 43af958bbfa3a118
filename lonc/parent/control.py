"""A socket at which the parent itself answers lines: the control socket, and that of `lonSockCreate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from lonc.child.client import Client
from lonc.child.listener import Listener
from lonc.child.transaction import Transaction
from lonc.errors import CannotStart
from lonc.log import RateLimitedLog
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.line_buffer import Line
from lonc.runtime.socket_file import CannotListen, SocketFile

CONTROL_MODE = 0o600  # every program that can connect can stop the daemon
MAX_CLIENTS = 64
MAX_LINE = 1000  # bytes


def outcome(status: int, text: str, **more: float) -> bytes:
    """The answer to an order, a line; `status` is the exit status of the command that gave it."""
    return json.dumps({"exit": status, "text": text, **more}).encode() + b"\n"


class LineServer:
    """Listens at `path`, a socket file of that `mode`. Raises CannotStart if it cannot be bound.

    `on_line(transaction)` is called for each line; it completes the transaction with the answer, at once
    or later. While MAX_CLIENTS are connected, one is disconnected for each new one: of those that wait
    for no answer the one that came first, or else of all. Its order is carried out all the same.
    """

    own_prefixes: tuple[bytes, ...] = ()  # for Client: every line goes to `queue_transaction`

    def __init__(
        self, loop: EventLoop, path: Path, mode: int, on_line: Callable[[Transaction], None]
    ) -> None:
        self.queue_transaction = on_line
        try:
            self._socket = SocketFile(path, mode)
        except CannotListen as error:
            raise CannotStart(str(error)) from error
        self._log = RateLimitedLog(loop, f"{path.name}: ")
        self._listener = Listener(
            loop,
            self._socket.listening,
            self,
            max_clients=MAX_CLIENTS,
            max_request=MAX_LINE,
            on_full=self._make_room,
            on_drained=lambda: None,
            on_no_clients=lambda: None,
        )

    def close(self) -> None:
        self._socket.close()

    def answer(self, request: Line, client: Client) -> bytes | None:
        raise AssertionError("`own_prefixes` is empty, so no line is the server's own")

    def drop_transaction(self, transaction: Transaction) -> None:
        """The client has disconnected; its order is carried out all the same."""

    def report_growth(self, count: int) -> None:
        """Bytes are not counted here: lines are short."""

    def _make_room(self, why: str) -> None:
        for client in list(self._listener.clients):
            if client.is_idle:
                client.client_request()  # its line may have arrived already
            if client.is_idle:
                client.close()
                return
        self._log.warn(why)
        next(iter(self._listener.clients)).close()
