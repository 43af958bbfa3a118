"""A reload: the old child passes its clients to the new one, without a lost byte.

    parent           old child             new child                 client
    ------------------------------------------------------------------------------------------
    forks the new child, which inherits the listening socket and one end of a socketpair
                                           ready
    leave, with the
    other end
                     accepts no more
                     clients COUNT                                   stays connected
                                           accepts, while there
                                           is room beside COUNT
                     client …                                        has no request in flight
                                           serves it
                     leaving
    regards the host as reloaded
                     client …                                        has got its reply
                                           serves it
                     clients COUNT                                   disconnects
                                           has room for one more
                     ends after the last client
    reaps it                               EOF: expects no more

Old and new child speak over the socketpair, in one direction only:

    clients COUNT               at most COUNT clients may still be passed on
    client ENDED OWED HELD      and the client's socket. ENDED is 1 if it has closed its sending side.
                                OWED lines follow (0 or 1), the rest of its last reply, and HELD lines,
                                read from it but not served; a newline is appended to the last of them.

If the new child ends early, the old one drains: it serves what has arrived, then disconnects its
clients. Neither trusts the other: if one breaks these rules, the other closes the socketpair.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

from lonc.child.client import Passing
from lonc.log import logger
from lonc.runtime.channel import Channel
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.line_buffer import LineBuffer

_HEADER = re.compile(rb"(?:clients ([0-9]{1,9})|client ([01]) ([01]) ([1-9][0-9]{0,8}))\n")


class Handover:
    """The old child's side.

    Callbacks: `on_passed()` after each client; `on_broken()` when the new child has ended and no client
    can be passed on any more.
    """

    def __init__(
        self,
        loop: EventLoop,
        successor: socket.socket,
        on_passed: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        self._channel = Channel(loop, successor, self._unexpected, self._broken, self._sent)
        self._on_passed = on_passed
        self._on_broken = on_broken
        self._on_finished: Callable[[], None] | None = None

    def announce(self, count: int) -> None:
        """From now on at most `count` clients may still be passed on."""
        self._channel.send(b"clients %d\n" % count)

    def pass_on(self, passing: Passing) -> None:
        """Send a client with its socket, which is closed here."""
        held = passing.held + b"\n"
        header = b"client %d %d %d\n" % (passing.ended, bool(passing.owed), held.count(b"\n"))
        self._channel.send(header + passing.owed + held, [passing.connection])
        self._on_passed()

    def finish(self, on_finished: Callable[[], None]) -> None:
        """When all has been sent, or never can be, close and call `on_finished`."""
        self._on_finished = on_finished
        if self._channel.all_sent:
            self._sent()

    def _unexpected(self, line: bytes) -> None:
        self._channel.fail("it sent a line, and none was expected")

    def _broken(self) -> None:
        if self._channel.fault is not None:
            logger.error("clients cannot be passed to the next child: %s", self._channel.fault)
        self._on_broken()
        self._sent()

    def _sent(self) -> None:
        if self._on_finished is not None:
            self._channel.close()
            self._on_finished()


class Succession:
    """The new child's side. `max_bytes`: the most that may be read of one client's lines.

    Callbacks: `expect(count)`, how many clients may still come, 0 after the old child's end;
    `adopt(passing)`, for each client.
    """

    def __init__(
        self,
        loop: EventLoop,
        predecessor: socket.socket,
        expect: Callable[[int], None],
        adopt: Callable[[Passing], None],
        max_bytes: int,
    ) -> None:
        self._expect = expect
        self._adopt = adopt
        self._max_bytes = max_bytes
        self._channel = Channel(
            loop,
            predecessor,
            self._receive,
            on_closed=self._closed,
            lines=LineBuffer(max_bytes),
            max_sockets=1,
        )
        self._header: tuple[bool, int, int] | None = None  # of the client whose lines arrive
        self._lines: list[bytes] = []
        self._bytes = 0  # in `_lines`

    def _closed(self) -> None:
        if self._channel.fault is not None:
            logger.error("no more clients of the previous child: %s", self._channel.fault)
        self._expect(0)

    def _receive(self, line: bytes) -> None:
        if self._header is None:
            self._read_header(line)
            return
        self._lines.append(line)
        self._bytes += len(line)
        ended, owed, held = self._header
        if self._bytes > self._max_bytes:
            self._channel.fail(f"it passed a client with more than {self._max_bytes} bytes")
        elif len(self._lines) == owed + held:
            lines, self._lines, self._header, self._bytes = self._lines, [], None, 0
            if not self._channel.received:
                self._channel.fail("it passed a client without its socket")
                return
            self._adopt(
                Passing(
                    connection=self._channel.received.popleft(),
                    owed=b"".join(lines[:owed]),
                    held=b"".join(lines[owed:])[:-1],
                    ended=ended,
                )
            )

    def _read_header(self, line: bytes) -> None:
        header = _HEADER.fullmatch(line)
        if header is None:
            self._channel.fail("it sent a line that makes no sense")
        elif header[1] is not None:
            self._expect(int(header[1]))
        else:
            self._header = header[2] == b"1", int(header[3]), int(header[4])
