"""A socket at which the parent itself answers: each line is given to one callback."""

from __future__ import annotations

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

MAX_ASKING = 64  # connections at a time
MAX_LINE = 1000  # bytes


class AnsweringSocket:
    """At `path`, with that `mode`. `on_line(transaction)` completes it with the answer, now or later.

    Who has asked nothing makes room for who comes when all places are taken. Raises CannotStart.
    """

    own_prefixes: tuple[bytes, ...] = ()  # all that comes is for `on_line`

    def __init__(
        self, loop: EventLoop, path: Path, mode: int, on_line: Callable[[Transaction], None]
    ) -> None:
        self.queue_transaction = on_line
        try:
            self._socket = SocketFile(path, mode)
        except CannotListen as error:
            raise CannotStart(str(error)) from error
        self._complain = RateLimitedLog(loop, f"{path.name}: ").warn
        self._listener = Listener(
            loop,
            self._socket.listening,
            self,
            max_clients=MAX_ASKING,
            max_request=MAX_LINE,
            on_full=self._make_room,
            on_drained=lambda: None,
            on_no_clients=lambda: None,
        )

    def close(self) -> None:
        self._socket.close()

    def answer(self, request: Line, client: Client) -> bytes | None:
        raise AssertionError("no request begins like one of none")

    def drop_transaction(self, transaction: Transaction) -> None:
        """Whoever asked has gone; what was asked for goes on."""

    def report_growth(self, count: int) -> None:
        """Lines are short."""

    def _make_room(self, why: str) -> None:
        for client in list(self._listener.clients):
            if client.is_idle:
                client.client_request()  # it may have asked a moment ago
            if client.is_idle:
                client.close()
                return
        self._complain(why)
