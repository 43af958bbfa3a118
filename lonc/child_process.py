"""A child as its parent sees it: forked, told, heard, asked how it is, and at last reaped."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from functools import partial

from lonc.channel import Channel
from lonc.child import Child
from lonc.configuration import Settings
from lonc.event_loop import EventLoop
from lonc.hosts import Host
from lonc.log import in_one_line, logger, speak_for
from lonc.process import die_with, ending, fork, keep_only
from lonc.status import HostStatus

StatusHeard = Callable[[HostStatus], None]


class ChildProcess:
    """Forked when it is made; raises OSError where that cannot be.

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
        on_word: Callable[[ChildProcess, bytes], None],
        on_ended: Callable[[ChildProcess], None],
    ) -> None:
        self.host = host
        self.ready_at: float | None = None  # by the loop's clock
        self.left = False  # it has ended as it was asked to
        self._loop = loop
        self._on_word = on_word
        self._on_ended = on_ended
        self._asking: list[StatusHeard] = []
        self._killed_for: str | None = None
        self._last_words: str | None = None
        ours, theirs = socket.socketpair()
        run = partial(_be_child, host, settings, listening, theirs, predecessor, os.getpid())
        try:
            self.pid = fork(run)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(loop, ours, self._heard, _no_matter)

    def __str__(self) -> str:
        return f"child {self.pid} of {self.host.id}"

    def leave(self, successor: socket.socket) -> None:
        """Let it pass its clients on; `successor` leads to the next child, and is ours no more."""
        self._channel.send(b"leave\n", [successor])

    def ask_status(self, on_status: StatusHeard) -> None:
        """Ask how it is doing; one that hangs is not asked again before it has answered."""
        if not self._asking:
            self._channel.send(b"status\n")
        self._asking.append(on_status)

    def terminate(self) -> None:
        """Let it drain and leave."""
        os.kill(self.pid, signal.SIGTERM)

    def kill(self, why: str) -> None:
        """End it at once; `why` ends the sentence that tells of it."""
        self._killed_for = why
        os.kill(self.pid, signal.SIGKILL)

    def ended(self, status: int) -> None:
        """It was reaped, with `status` of waitpid."""
        self._channel.read_on()  # its last words may not have been heard yet
        self._channel.close()
        self.left = status == 0
        self._how = ending(status) if self._killed_for is None else f"was killed: {self._killed_for}"
        if self._last_words is not None:
            self._how += f": {self._last_words}"
        self._on_ended(self)

    @property
    def how_it_ended(self) -> str:
        """A sentence, once it has ended."""
        return f"{self} {self._how}"

    def _heard(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        if word == b"status":
            asking, self._asking = self._asking, []
            status = HostStatus(**json.loads(rest))
            for on_status in asking:
                on_status(status)
        elif word == b"crash":
            self._last_words = json.loads(rest)
        else:
            self._on_word(self, line)


def _be_child(
    host: Host,
    settings: Settings,
    listening: socket.socket,
    to_parent: socket.socket,
    predecessor: socket.socket | None,
    parent_pid: int,
) -> int:
    """From here on only the child speaks. It keeps three sockets of all that it was forked with."""
    own = [each for each in (listening, to_parent, predecessor) if each is not None]
    keep_only(each.fileno() for each in own)
    die_with(parent_pid)
    speak_for(host.id)
    try:
        Child(host, settings, listening, to_parent, predecessor).run()
    except Exception as crash:  # whatever it was, the parent shall say it
        words = in_one_line(crash)
        try:
            to_parent.sendall(b"crash %b\n" % json.dumps(words).encode())
        except OSError:
            logger.critical("%s", words)  # it does not hear
        return 1
    return 0


def _no_matter() -> None:
    """A channel that closes is a child that ends; SIGCHLD tells more about that."""
