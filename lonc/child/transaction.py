"""One request, and who hears how it ended: exactly one of `complete` and `fail` is called, once.

Who asks is one: a client has at most one request under way, and stands for it in queue and connection.
"""

from __future__ import annotations

from lonc.runtime.line_buffer import Line


class Transaction:
    """A request line on its way to lond, with its newline.

    `since` is when somebody began to wait for it, by the loop's clock. Once it has ended it may be
    queued again, with the next request.
    """

    __slots__ = ("request", "since")

    request: Line
    since: float

    def complete(self, reply: Line) -> None:
        """lond has answered; `reply` is its line."""
        raise NotImplementedError

    def fail(self, why: str) -> None:
        """There will be no reply."""
        raise NotImplementedError
