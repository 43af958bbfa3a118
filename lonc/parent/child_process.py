"""A child as its parent sees it: forked, given orders, asked for its status, and reaped at last."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from functools import partial

from lonc.child.child import LEAVING, PONG, READY, Child
from lonc.configuration import Settings
from lonc.hosts import Host
from lonc.log import follow, in_one_line, log_as, logger
from lonc.monitoring.status import NO_CHILD, HostStatus
from lonc.parent.client_limit import with_user_limit
from lonc.runtime.channel import Channel
from lonc.runtime.event_loop import Deadline, EventLoop
from lonc.runtime.process import close_all_except, die_with_parent, exit_reason, fork

READY_WITHIN = 10.0  # seconds from the fork
LEAVING_WITHIN = 10.0  # seconds from the order `leave` until all idle clients are passed on
ANSWER_WITHIN = 1.0  # seconds; a child whose status report takes longer is reported as hung
KILL_AFTER = 3.0  # seconds beyond its drain timeout
PING_EVERY = 10.0  # seconds
PINGS_ALIGNED = 10  # the parent wakes so often in that time, each time for a share of the children
EXIT_WITHIN = 10.0  # seconds from the end of its channel
MAX_LAST_WORDS = 2000  # bytes of the exception that ends a child
MAX_LOGGED = 200  # bytes of a line that it must not send
MAX_UNANSWERED = 6  # pings in a row; a child that answers none of them hangs

OnStatus = Callable[[HostStatus], None]


class ChildProcess:
    """Forks the child when it is created; raises OSError if that fails.

    `listening` is the host's listener. `predecessor` is a socket to the child whose clients the new one
    takes over; None if there is none. `disabled`: the host is, from the start.

    The child must become ready, leave and drain within the times above. If it does not, answers no
    ping, or sends anything that it was not asked for, it is killed.

    Callbacks, from the loop: `on_word(child, word)` for each line of the child that `lonc.child.child`
    lists and that is not handled here, with its newline; and once `on_ended(child)`, when it has been
    reaped.
    """

    def __init__(
        self,
        loop: EventLoop,
        host: Host,
        settings: Settings,
        listening: socket.socket,
        predecessor: socket.socket | None,
        disabled: bool,
        on_word: Callable[[ChildProcess, bytes], None],
        on_ended: Callable[[ChildProcess], None],
    ) -> None:
        self.host = host
        self.listening = listening
        self.ready_at: float | None = None  # by the loop's clock
        self.left = False  # it has ended with status 0
        self.how_it_ended = f"a child of {host.name} runs"  # for the log, once it has
        self.drain_timeout = settings.drain_timeout
        self._loop = loop
        self._on_word = on_word
        self._on_ended = on_ended
        self._owes_status = False
        self._unanswered = 0  # pings in a row
        self._on_status: list[tuple[float, OnStatus]] = []  # and when the status was requested
        self._awaited: bytes | None = None  # the word that cancels the deadline
        self._deadline: Deadline | None = None  # the child is killed then
        self._killed_for: str | None = None
        self._last_words: str | None = None
        self._reaped = False
        ours, theirs = socket.socketpair()
        # Here and not in the child, which would have the users and groups in pages of its own.
        limited = with_user_limit(settings)
        run = partial(_be_child, host, limited, listening, theirs, predecessor, disabled, os.getpid())
        try:
            self.pid = fork(run)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(loop, ours, self._heard, on_closed=self._channel_closed)
        self._expect(READY, READY_WITHIN, "it was not ready in time")
        self._next_ping = self._ping_in(self.pid % PINGS_ALIGNED / PINGS_ALIGNED * PING_EVERY)

    def send_order(self, order: bytes) -> None:
        """Send one of the orders that `lonc.child.child` lists, without its newline."""
        self._channel.send(order + b"\n")

    def leave(self, successor: socket.socket) -> None:
        """Order it to pass its clients to the next child and leave.

        `successor` is a socket to that child; it is closed here once it has been sent.
        """
        self._channel.send(b"leave\n", [successor])
        self._expect(LEAVING, LEAVING_WITHIN, "it did not leave in time")

    def ask_status(self, on_status: OnStatus) -> None:
        """Request a status report; `on_status` is not called if it takes longer than ANSWER_WITHIN.

        The child has at most one such request to answer: others wait for the same report.
        """
        if not self._owes_status:
            self._owes_status = True
            self._channel.send(b"status\n")
        now = self._loop.now
        self._on_status = [each for each in self._on_status if now - each[0] < ANSWER_WITHIN]
        self._on_status.append((now, on_status))

    def terminate(self) -> None:
        """Signal it to drain and leave; does nothing once it has been reaped."""
        if self._reaped:
            return
        os.kill(self.pid, signal.SIGTERM)
        self._expect(None, self.drain_timeout + KILL_AFTER, "it did not drain in time")

    def kill(self, why: str) -> None:
        """End it at once, for the reason `why`; does nothing once it has been reaped."""
        if not self._reaped:
            self._killed_for = why
            os.kill(self.pid, signal.SIGKILL)

    def ended(self, status: int) -> None:
        """It has been reaped, with `status` of waitpid: its pid may be another process's from now on."""
        self._reaped = True
        self._next_ping.cancel()
        self._channel.receive_rest()  # it may have said something before it ended
        self._channel.close()
        self._cancel_deadline()
        self.left = status == 0
        how = exit_reason(status) if self._killed_for is None else f"was killed: {self._killed_for}"
        words = "" if self._last_words is None else f": {self._last_words}"
        self.how_it_ended = f"child {self.pid} of {self.host.name} {how}{words}"
        self._report(HostStatus(self.host.name, NO_CHILD))
        self._on_ended(self)

    def _ping(self) -> None:
        """Callback. (Pings are counted, not seconds: this process may have been stopped itself.)"""
        if self._unanswered >= MAX_UNANSWERED:
            self.kill(f"it has not answered for {MAX_UNANSWERED * PING_EVERY:.0f} s")
            return
        self._unanswered += 1
        self.send_order(b"ping")
        follow()
        self._next_ping = self._ping_in(PING_EVERY)

    def _ping_in(self, seconds: float) -> Deadline:
        """Ping it in about so many seconds, together with other children."""
        step = PING_EVERY / PINGS_ALIGNED
        moment = round((self._loop.now + seconds) / step) * step
        return self._loop.at(moment, self._ping)

    def _heard(self, line: bytes) -> None:
        self._unanswered = 0
        word, _, rest = line.partition(b" ")
        if word == b"status":
            self._heard_status(rest)
        elif word == b"crash":
            self._last_words = rest[:-1][:MAX_LAST_WORDS].decode(errors="replace")
        elif line == PONG:
            pass  # any line shows that it does not hang
        elif self._killed_for is None and not self._reaped:  # it is of no use after that
            if line == self._awaited:
                self._cancel_deadline()
            self._on_word(self, line)

    def _heard_status(self, line: bytes) -> None:
        if not self._owes_status:
            self.kill("it sent a status that was not requested")
            return
        try:
            status = HostStatus.from_child(line)
        except ValueError:
            self.kill("its status makes no sense")
            return
        if status.host != self.host.name:
            self.kill("its status is of another host")
        else:
            self._report(status)

    def _channel_closed(self) -> None:
        """Callback. It is ending, and how it has ended is known when it is reaped; or it must be."""
        if self._channel.fault is not None:
            self.kill(self._channel.fault)
        elif not self._reaped:
            self._expect(None, EXIT_WITHIN, "it has closed its channel, and did not end")

    def _report(self, status: HostStatus) -> None:
        self._owes_status = False
        requested, self._on_status = self._on_status, []
        for _, on_status in requested:
            on_status(status)

    def _expect(self, word: bytes | None, seconds: float, why_killed: str) -> None:
        """Kill it unless it says `word` within `seconds`; if that is None, unless it ends."""
        self._cancel_deadline()
        self._awaited = word
        self._deadline = self._loop.after(seconds, partial(self.kill, why_killed))

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()


def _be_child(
    host: Host,
    settings: Settings,
    listening: socket.socket,
    to_parent: socket.socket,
    predecessor: socket.socket | None,
    disabled: bool,
    parent_pid: int,
) -> int:
    """The new process: from here on only the child speaks. It keeps no other socket of its parent."""
    own = [each for each in (listening, to_parent, predecessor) if each is not None]
    close_all_except(each.fileno() for each in own)
    die_with_parent(parent_pid)
    log_as(host.name)
    try:
        Child(host, settings, listening, to_parent, predecessor, disabled).run()
    except Exception as crash:  # of any kind: the parent logs it
        words = in_one_line(crash)
        line = words.encode(errors="backslashreplace").replace(b"\n", rb"\n")
        try:
            to_parent.sendall(b"crash %b\n" % line)
        except OSError:
            logger.critical("%s", words)  # the parent has ended
        return 1
    return 0
