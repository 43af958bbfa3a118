"""A transaction: one request under way to lond, with the callbacks for its end.

A Client is its own Transaction: it has at most one request in flight, so no object per request is
needed. The same holds for Replay.
"""

from __future__ import annotations

from lonc.runtime.line_buffer import Line


class Transaction:
    """A request line, with its newline, that is queued or in flight.

    `since` is the time, by the loop's clock, from which its latency counts; `started`, the time at which
    it was started on a connection, equals `since` if it has not waited for one. The pool sets both. It
    calls exactly one of `complete` and `fail`, once; the same object may then be queued again with its
    next request.
    """

    __slots__ = ("request", "since", "started")

    request: Line
    since: float
    started: float

    def complete(self, reply: Line) -> None:
        """Callback: lond has replied; `reply` is one line."""
        raise NotImplementedError

    def fail(self, why: str) -> None:
        """Callback: there will be no reply. lond may have carried out the request all the same."""
        raise NotImplementedError
