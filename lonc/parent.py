"""Binds the sockets, forks a child per host, replaces the dead, ends them all."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import NoReturn

from setproctitle import setproctitle

from lonc import __version__
from lonc.backoff import Backoff
from lonc.channel import Channel
from lonc.child import READY, Child
from lonc.client import bind_listener
from lonc.configuration import Settings
from lonc.errors import CannotStart
from lonc.event_loop import EventLoop
from lonc.hosts import Host
from lonc.log import logger, speak_for
from lonc.process import die_with, ending, raise_descriptor_limit

LIVED_LONG = 10.0  # seconds; a child that lived so long is replaced as if it were the first to die
RESTART_FIRST, RESTART_LONGEST = 1.0, 60.0  # seconds
KILL_AFTER = 5.0  # seconds beyond the drain timeout, then what has not left is killed
SPARE_DESCRIPTORS = 32  # of each process, beside listeners, channels, clients and lond connections

IGNORED_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)


class ChildRecord:
    """What the parent keeps for one host: its socket, and the child behind it while there is one."""

    def __init__(self, host: Host, listening: socket.socket, path: Path, random: Random) -> None:
        self.host = host
        self.listening = listening
        self.backoff = Backoff(RESTART_FIRST, RESTART_LONGEST, random, at_once=1)
        self.pid: int | None = None
        self.channel: Channel | None = None
        self.ready_at: float | None = None  # by the loop's clock
        self._path = path
        self._made = _identity(path)

    def remove_socket(self) -> None:
        """Remove the file, if it is still the one that was made here."""
        if _identity(self._path) == self._made:
            with contextlib.suppress(OSError):
                self._path.unlink()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class Parent:
    """All hosts' children, from before the first until after the last.

    `held` are the descriptors that no child may keep: its locks. `on_ready()` is called once, when
    every child has said that it serves.
    """

    def __init__(
        self,
        settings: Settings,
        hosts: Sequence[Host],
        held: Sequence[int],
        on_ready: Callable[[], None],
    ) -> None:
        self._settings = _within_limits(settings, len(hosts))
        self._hosts = hosts
        self._held = held
        self._on_ready: Callable[[], None] | None = on_ready
        self._loop = EventLoop()
        self._records: list[ChildRecord] = []
        self._by_pid: dict[int, ChildRecord] = {}
        self._stopping = False

    def run(self) -> None:
        """Serve until TERM or INT and the end of all children. Raises CannotStart."""
        self._loop.on_signal(signal.SIGCHLD, self._reap)
        self._loop.on_signal(signal.SIGTERM, partial(self._stop, "TERM"))
        self._loop.on_signal(signal.SIGINT, partial(self._stop, "INT"))
        for signum in IGNORED_SIGNALS:
            signal.signal(signum, signal.SIG_IGN)
        count = f"{len(self._hosts)} host{'' if len(self._hosts) == 1 else 's'}"
        setproctitle(f"lonc: parent, {count}")
        try:
            self._bind()
            logger.info("lonc %s starts, %s", __version__, count)
            for record in self._records:
                self.create_child(record)
            self._announce()
            self._loop.run()
            logger.info("stopped")
        finally:
            self._remove_sockets()
            self._loop.close()

    def create_child(self, record: ChildRecord) -> None:
        """Fork a child for the record's host; signals wait until parent and child have parted."""
        try:
            pid, ours = self._fork(record)
        except OSError as error:
            self._replace_later(record, f"cannot fork a child for {record.host.id}: {error.strerror}")
            return
        record.pid = pid
        record.channel = Channel(self._loop, ours, partial(self._heard, record), _no_matter)
        self._by_pid[pid] = record

    def _fork(self, record: ChildRecord) -> tuple[int, socket.socket]:
        """The child's pid, and our end of the channel to it."""
        ours, theirs = socket.socketpair()
        parent_pid = os.getpid()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._be_child(record, theirs, parent_pid)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid, ours

    def _be_child(self, record: ChildRecord, to_parent: socket.socket, parent_pid: int) -> NoReturn:
        """From here on only the child speaks. It lets go of all that is its parent's or its siblings',
        and never returns into the frames that it was forked from."""
        status = 1
        try:
            self._loop.close()
            for fd in self._held:
                os.close(fd)
            for other in self._records:
                if other is not record:
                    other.listening.close()
                if other.channel is not None:
                    other.channel.close_inherited()
            die_with(parent_pid)
            speak_for(record.host.id)
            Child(record.host, self._settings, record.listening, to_parent).run()
            status = 0
        except Exception as crash:  # whatever it was: it must not get back into the parent's code
            places = traceback.extract_tb(crash.__traceback__)
            way = ", ".join(f"{Path(at.filename).name}:{at.lineno}" for at in places)
            logger.critical("%s: %s (%s)", type(crash).__name__, crash, way)
        finally:
            os._exit(status)

    def _bind(self) -> None:
        random = Random()
        for host in self._hosts:
            path = self._settings.socket_directory / host.id
            listening = bind_listener(path, self._settings.socket_mode)
            self._records.append(ChildRecord(host, listening, path, random))

    def _remove_sockets(self) -> None:
        for record in self._records:
            record.remove_socket()
            record.listening.close()

    def _heard(self, record: ChildRecord, line: bytes) -> None:
        if line == READY:
            record.ready_at = self._loop.now
            self._announce()
        elif record.pid is not None:
            logger.error("child %d of %s is killed: it said %r", record.pid, record.host.id, line)
            os.kill(record.pid, signal.SIGKILL)

    def _announce(self) -> None:
        """Say once that all children serve."""
        ready = all(record.ready_at is not None for record in self._records)
        if ready and not self._stopping and self._on_ready is not None:
            on_ready, self._on_ready = self._on_ready, None
            logger.info("every child serves")
            on_ready()

    def _reap(self) -> None:
        """Callback: a child has ended, perhaps several. As process 1 we are handed strangers, too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (record := self._by_pid.pop(pid, None)) is not None:
                self._child_ended(record, status)

    def _child_ended(self, record: ChildRecord, status: int) -> None:
        how = f"child {record.pid} of {record.host.id} {ending(status)}"
        assert record.channel is not None
        record.channel.close()
        lived_long = record.ready_at is not None and self._loop.now - record.ready_at >= LIVED_LONG
        record.channel = record.pid = record.ready_at = None
        if self._stopping:
            logger.info("%s", how)
            if not self._by_pid:
                self._loop.stop()
            return
        if status == 0 or lived_long:
            record.backoff.reset()
        self._replace_later(record, how, logging.INFO if status == 0 else logging.WARNING)

    def _replace_later(self, record: ChildRecord, why: str, level: int = logging.WARNING) -> None:
        delay = record.backoff.next_delay()
        logger.log(level, "%s; replaced %s", why, f"in {delay:.1f} s" if delay else "at once")
        self._loop.at(self._loop.now + delay, partial(self._replace, record))

    def _replace(self, record: ChildRecord) -> None:
        if not self._stopping:
            self.create_child(record)

    def _stop(self, signal_name: str) -> None:
        """Callback: the first TERM or INT lets the children drain, the second ends them at once."""
        if self._stopping:
            self._kill()
            return
        self._stopping = True
        logger.info("stopping: %s", signal_name)
        for record in self._records:
            record.remove_socket()
        for pid in self._by_pid:
            os.kill(pid, signal.SIGTERM)
        self._loop.at(self._loop.now + self._settings.drain_timeout + KILL_AFTER, self._kill)
        if not self._by_pid:
            self._loop.stop()

    def _kill(self) -> None:
        for pid in self._by_pid:
            os.kill(pid, signal.SIGKILL)


def _no_matter() -> None:
    """A channel that closes is a child that ends; SIGCHLD tells more about that."""


def _within_limits(settings: Settings, hosts: int) -> Settings:
    """Raise the limit of open files as far as allowed, and fit the number of clients to it.

    Raises CannotStart where even that is too low.
    """
    limit = raise_descriptor_limit()
    parents_need = 2 * hosts + SPARE_DESCRIPTORS
    if limit < parents_need:
        raise CannotStart(
            f"{hosts} hosts need {parents_need} open files, and the limit is {limit}: raise it"
        )
    childs_need = settings.max_connections + SPARE_DESCRIPTORS
    clients = limit - childs_need
    if clients < 1:
        raise CannotStart(
            f"a child needs {childs_need + 1} open files, and the limit is {limit}: raise it"
        )
    if clients >= settings.max_clients:
        return settings
    logger.warning(
        "at most %d clients a host, not %d: the limit of open files is %d",
        clients,
        settings.max_clients,
        limit,
    )
    return replace(settings, max_clients=clients)
