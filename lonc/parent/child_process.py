"""A child as its parent sees it: forked, told, heard, asked how it is, and at last reaped."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from functools import partial

from lonc.child.child import LEAVING, PONG, READY, Child
from lonc.configuration import Settings
from lonc.hosts import Host
from lonc.log import in_one_line, log_as, logger
from lonc.monitoring.status import NO_CHILD, HostStatus
from lonc.runtime.channel import Channel
from lonc.runtime.event_loop import Deadline, EventLoop
from lonc.runtime.process import close_all_except, die_with_parent, exit_reason, fork

READY_WITHIN = 10.0  # seconds from the fork
LEAVING_WITHIN = 10.0  # seconds from being told, until whoever has no request in flight is passed on
ANSWER_WITHIN = 1.0  # seconds until a child that was asked how it is is taken to hang
KILL_AFTER = 3.0  # seconds beyond its drain timeout
ASK_EVERY = 10.0  # seconds
TOGETHER = 10  # the parent wakes so often in that time, and asks each time its share of the children
SILENT_AT_MOST = 6  # such questions in a row; whoever answers none of them hangs

StatusHeard = Callable[[HostStatus], None]


class ChildProcess:
    """Forked when it is made; raises OSError where that cannot be.

    Whatever it is told to do, to become ready first of all, it has a time for; then it is killed.

    Callbacks, from the loop: `on_word(child, word)`, one of those that `child` lists, with its newline;
    and once `on_ended(child)`.
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
        self.left = False  # it has ended as it was asked to
        self.how_it_ended = f"a child of {host.name} runs"  # a sentence, once it has
        self._loop = loop
        self.drain_timeout = settings.drain_timeout
        self._on_word = on_word
        self._on_ended = on_ended
        self._owes_status = False
        self._unanswered = 0  # how often in a row it was asked in vain
        self._asking: list[tuple[float, StatusHeard]] = []  # and since when
        self._awaited: bytes | None = None  # the word that ends its time
        self._deadline: Deadline | None = None
        self._killed_for: str | None = None
        self._last_words: str | None = None
        self._reaped = False
        ours, theirs = socket.socketpair()
        run = partial(_be_child, host, settings, listening, theirs, predecessor, disabled, os.getpid())
        try:
            self.pid = fork(run)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(loop, ours, self._heard, _no_matter)
        self._await(READY, READY_WITHIN, "it was not ready in time")
        self._next_question = self._ask_in(self.pid % TOGETHER / TOGETHER * ASK_EVERY)

    def tell(self, order: bytes) -> None:
        """One of the lines that `child` lists, without its newline; it is not answered."""
        self._channel.send(order + b"\n")

    def leave(self, successor: socket.socket) -> None:
        """Let it pass its clients on; `successor` leads to the next child, and is ours no more."""
        self._channel.send(b"leave\n", [successor])
        self._await(LEAVING, LEAVING_WITHIN, "it did not leave when it was told to")

    def ask_status(self, on_status: StatusHeard) -> None:
        """Ask how it is doing; nothing is heard of an answer that takes longer than a second.

        One that has not answered yet is not asked again.
        """
        if not self._owes_status:
            self._owes_status = True
            self._channel.send(b"status\n")
        now = self._loop.now
        self._asking = [each for each in self._asking if now - each[0] < ANSWER_WITHIN]
        self._asking.append((now, on_status))

    def terminate(self) -> None:
        """Let it drain and leave."""
        if self._reaped:
            return
        os.kill(self.pid, signal.SIGTERM)
        self._await(None, self.drain_timeout + KILL_AFTER, "it did not drain in time")

    def kill(self, why: str) -> None:
        """End it at once; `why` ends the sentence that tells of it."""
        if not self._reaped:
            self._killed_for = why
            os.kill(self.pid, signal.SIGKILL)

    def ended(self, status: int) -> None:
        """It was reaped, with `status` of waitpid: its pid may be another's from now on."""
        self._reaped = True
        self._next_question.cancel()
        self._channel.receive_rest()  # its last words may not have been heard yet
        self._channel.close()
        self._in_time()
        self.left = status == 0
        how = exit_reason(status) if self._killed_for is None else f"was killed: {self._killed_for}"
        words = "" if self._last_words is None else f": {self._last_words}"
        self.how_it_ended = f"child {self.pid} of {self.host.name} {how}{words}"
        self._answer(HostStatus(self.host.name, NO_CHILD))
        self._on_ended(self)

    def _ask_again(self) -> None:
        """Callback, now and then. (We count questions and not seconds: we may have been held up.)"""
        if self._unanswered >= SILENT_AT_MOST:
            self.kill(f"it has not answered for {SILENT_AT_MOST * ASK_EVERY:.0f} s")
            return
        self._unanswered += 1
        self.tell(b"ping")
        self._next_question = self._ask_in(ASK_EVERY)

    def _ask_in(self, seconds: float) -> Deadline:
        """In about so many seconds, at a moment that is others' too."""
        step = ASK_EVERY / TOGETHER
        moment = round((self._loop.now + seconds) / step) * step
        return self._loop.at(moment, self._ask_again)

    def _heard(self, line: bytes) -> None:
        self._unanswered = 0
        word, _, rest = line.partition(b" ")
        if word == b"status":
            try:
                status = HostStatus.from_line(rest)
            except ValueError:
                self.kill("its status makes no sense")
            else:
                self._answer(status)
        elif word == b"crash":
            self._last_words = rest[:-1].decode(errors="replace")
        elif line == PONG:
            pass  # to be heard is all that matters
        elif self._killed_for is None and not self._reaped:  # else nothing can come of it
            if line == self._awaited:
                self._in_time()
            self._on_word(self, line)

    def _answer(self, status: HostStatus) -> None:
        self._owes_status = False
        asking, self._asking = self._asking, []
        for _, on_status in asking:
            on_status(status)

    def _await(self, word: bytes | None, seconds: float, why_killed: str) -> None:
        """It has so many seconds for what it was told last: to say `word`, or else to end."""
        self._in_time()
        self._awaited = word
        self._deadline = self._loop.after(seconds, partial(self.kill, why_killed))

    def _in_time(self) -> None:
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
    """From here on only the child speaks. It keeps three sockets of all that it was forked with."""
    own = [each for each in (listening, to_parent, predecessor) if each is not None]
    close_all_except(each.fileno() for each in own)
    die_with_parent(parent_pid)
    log_as(host.name)
    try:
        Child(host, settings, listening, to_parent, predecessor, disabled).run()
    except Exception as crash:  # whatever it was, the parent shall say it
        words = in_one_line(crash)
        line = words.encode(errors="backslashreplace").replace(b"\n", rb"\n")
        try:
            to_parent.sendall(b"crash %b\n" % line)
        except OSError:
            logger.critical("%s", words)  # it does not hear
        return 1
    return 0


def _no_matter() -> None:
    """A channel that closes is a child that ends; SIGCHLD tells more about that."""
