"""How a child that leaves passes its clients to the one that succeeds it, over a socketpair of the two.

    clients COUNT                 first of all, and again: so many may still be passed on
    client ENDED OWED HELD        and its socket; then OWED lines, and HELD lines, of which the last has
                                  a newline more than was there

Lines go one way only. Their end is the end of the child that leaves.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from lonc.child.client import Passing
from lonc.runtime.channel import Channel
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.line_buffer import LineBuffer

# What is held of a client may be as long as the leaving child's settings allow; it is read by ourselves.
NO_LIMIT = 1 << 62


class Handover:
    """The side that leaves.

    Callbacks: `on_passed()`, after each client; `on_broken()`, when the next child has ended, and nobody
    can be passed on.
    """

    def __init__(
        self,
        loop: EventLoop,
        successor: socket.socket,
        on_passed: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        self._channel = Channel(loop, successor, _heard_from_successor, self._broken, self._sent)
        self._on_passed = on_passed
        self._on_broken = on_broken
        self._on_finished: Callable[[], None] | None = None

    def announce(self, count: int) -> None:
        """So many clients may still come, from now on."""
        self._channel.send(b"clients %d\n" % count)

    def pass_on(self, passing: Passing) -> None:
        held = passing.held + b"\n"
        header = b"client %d %d %d\n" % (passing.ended, bool(passing.owed), held.count(b"\n"))
        self._channel.send(header + passing.owed + held, [passing.connection])
        self._on_passed()

    def finish(self, on_finished: Callable[[], None]) -> None:
        """Close, and call back, when all has left."""
        self._on_finished = on_finished
        if self._channel.all_sent:
            self._sent()

    def _broken(self) -> None:
        self._on_broken()
        self._sent()  # what has not left by now never will

    def _sent(self) -> None:
        if self._on_finished is not None:
            self._channel.close()
            self._on_finished()


class Succession:
    """The side that stays. Callbacks: `adopt(client)`; `expect(count)`, 0 when no more can come."""

    def __init__(
        self,
        loop: EventLoop,
        predecessor: socket.socket,
        expect: Callable[[int], None],
        adopt: Callable[[Passing], None],
    ) -> None:
        self._expect = expect
        self._adopt = adopt
        self._channel = Channel(
            loop, predecessor, self._heard, on_closed=lambda: expect(0), lines=LineBuffer(NO_LIMIT)
        )
        self._client: tuple[bool, int, int] | None = None  # of the header
        self._lines: list[bytes] = []

    def _heard(self, line: bytes) -> None:
        if self._client is None:
            word, *numbers = line.split()
            if word == b"clients":
                self._expect(int(numbers[0]))
            else:
                ended, owed, held = map(int, numbers)
                self._client = bool(ended), owed, held
            return
        self._lines.append(line)
        ended, owed, held = self._client
        if len(self._lines) < owed + held:
            return
        lines, self._lines, self._client = self._lines, [], None
        self._adopt(
            Passing(
                connection=self._channel.received.popleft(),
                owed=b"".join(lines[:owed]),
                held=b"".join(lines[owed:])[:-1],
                ended=ended,
            )
        )


def _heard_from_successor(line: bytes) -> None:
    raise AssertionError(f"the next child said {line!r}")
