"""One request, and who hears how it ended: exactly one of on_reply and on_failure, once."""

from __future__ import annotations

from collections.abc import Callable

from lonc.line_buffer import Line

ReplyHeard = Callable[[Line], None]
FailureHeard = Callable[[str], None]


class Transaction:
    """A request line on its way to lond, with its newline; the way back is its two callbacks.

    `since` is when somebody began to wait for it, by the loop's clock.
    """

    __slots__ = ("_on_failure", "_on_reply", "request", "since")

    def __init__(self, request: Line, on_reply: ReplyHeard, on_failure: FailureHeard) -> None:
        self.request = request
        self.since = 0.0
        self._on_reply = on_reply
        self._on_failure = on_failure

    def complete(self, reply: Line) -> None:
        """lond has answered; `reply` is its line."""
        on_reply = self._on_reply
        self._on_reply = self._on_failure = _ended
        on_reply(reply)

    def fail(self, why: str) -> None:
        """There will be no reply."""
        on_failure = self._on_failure
        self._on_reply = self._on_failure = _ended
        on_failure(why)

    def redirect(self, on_reply: ReplyHeard, on_failure: FailureHeard) -> None:
        """Let others hear how it ends."""
        self._on_reply = on_reply
        self._on_failure = on_failure

    def abandon(self) -> None:
        """Nobody listens any more; the transaction may still end, unheard."""
        self._on_reply = self._on_failure = _unheard


def _ended(_: object) -> None:
    raise AssertionError("a transaction ends once")


def _unheard(_: object) -> None:
    """Where the outcome of an abandoned transaction goes."""
