"""The commands that send requests."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import socket
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Generic, TypeVar

from lonc import lonnet
from lonc.commands.loading import load
from lonc.commands.output import print_error, printable
from lonc.configuration import Settings
from lonc.errors import DONE, FAILED, CannotStart, UsageError
from lonc.hosts import Host, find_host
from lonc.spool.sealing import require_keys

PING_TIMEOUT = 10.0  # seconds; whoever pings wants to know soon
MOST_ABREAST = 256  # threads

T = TypeVar("T")

PROGRESS_FROM = 100  # lines
DRAW_EVERY = 0.1  # seconds
BAR = 30  # characters


def send(options: argparse.Namespace) -> int:
    settings, hosts = load(options)
    host = find_host(hosts, options.host, settings.hosts_file)
    if not 1 <= options.parallel <= MOST_ABREAST:
        raise UsageError(f"--parallel wants 1 to {MOST_ABREAST}")
    one = os.fsencode(options.request)
    progress = _Progress()
    requests = progress.of(sys.stdin.buffer) if one == b"-" else iter([one])
    status = DONE
    with contextlib.closing(_Sender(settings, _id(options.host, host), options.critical)) as sender:
        for reply in sender.send(requests, options.parallel):
            progress.clear()
            sys.stdout.buffer.write(reply + b"\n")
            sys.stdout.buffer.flush()
            if reply in (lonnet.CON_LOST, lonnet.CON_FAILED):
                status = FAILED
                complain(settings, host.name)
            if reply == lonnet.CON_FAILED:
                _complain_of_keys(settings)
            progress.replied()
    progress.clear()
    return status


class _Workers(Generic[T]):
    """Threads that call `function`; whoever is interrupted need not wait for them."""

    def __init__(self, count: int, function: Callable[[bytes], T]) -> None:
        self._function = function
        self._jobs: SimpleQueue[tuple[Future[T], bytes]] = SimpleQueue()
        for _ in range(count):
            threading.Thread(target=self._work, daemon=True).start()

    def submit(self, argument: bytes) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.put((future, argument))
        return future

    def _work(self) -> None:
        while True:
            future, argument = self._jobs.get()
            try:
                future.set_result(self._function(argument))
            except Exception as error:  # whoever waits for the result hears of it
                future.set_exception(error)


class _Sender:
    """Sends to one host, from as many threads as are wanted, each over a connection of its own."""

    def __init__(self, settings: Settings, host: str, critical: bool) -> None:
        self._settings = settings
        self._host = host
        self._critical = critical
        self._own = threading.local()
        self._opened: list[lonnet.Lonc] = []

    def close(self) -> None:
        """Close what is not in use."""
        for lonc in self._opened:
            lonc.close()

    def send(self, requests: Iterable[bytes], parallel: int) -> Iterator[bytes]:
        """The replies, in the order of the requests. Raises UsageError for what is not one line."""
        workers = _Workers(parallel, self._send)
        under_way: deque[Future[bytes]] = deque()
        for request in requests:
            under_way.append(workers.submit(request.removesuffix(b"\n")))
            # A line at a time is asked and answered at once, whenever the next one comes.
            while len(under_way) >= parallel:
                yield self._result(under_way.popleft())
        while under_way:
            yield self._result(under_way.popleft())

    def _send(self, request: bytes) -> bytes:
        if not hasattr(self._own, "lonc"):
            self._own.lonc = lonnet.Lonc(self._settings)
            self._opened.append(self._own.lonc)
        lonc: lonnet.Lonc = self._own.lonc
        return (lonc.critical if self._critical else lonc.reply)(request, self._host)

    def _result(self, reply: Future[bytes]) -> bytes:
        try:
            return reply.result()
        except ValueError as error:
            raise UsageError(str(error)) from None


class _Progress:
    """A bar on standard error, if that is a terminal, once there are more than a hundred lines."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._read = 0  # bytes
        self._size = 0  # bytes that there will be; 0 where nobody knows
        self._count = 0
        self._drawn = False
        self._draw_at = 0.0

    def of(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """The same lines, counted as they pass."""
        about = os.fstat(sys.stdin.fileno())
        self._size = about.st_size if stat.S_ISREG(about.st_mode) else 0
        for line in lines:
            self._read += len(line)
            yield line

    def replied(self) -> None:
        """One more is done."""
        self._count += 1
        if self._shown and self._count > PROGRESS_FROM and time.monotonic() >= self._draw_at:
            self._draw_at = time.monotonic() + DRAW_EVERY
            self._drawn = True
            sys.stderr.write(f"\r{self._text()}\x1b[K")
            sys.stderr.flush()

    def clear(self) -> None:
        """Make room for other output."""
        if self._drawn:
            self._drawn = False
            self._draw_at = 0.0  # at once again, below what comes now
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _text(self) -> str:
        if not self._size:
            return f"{self._count} lines"
        share = min(1.0, self._read / self._size)
        bar = "#" * round(BAR * share)
        return f"[{bar:<{BAR}}] {share:4.0%}  {self._count} lines"


def ping(options: argparse.Namespace) -> int:
    settings, hosts = load(options)
    found = [(each, find_host(hosts, each, settings.hosts_file)) for each in options.hosts]
    asked = [(_id(each, host), host) for each, host in found]
    asked = asked or [(id_, host) for host in hosts for id_ in host.ids]
    width = max((len(id_) for id_, _ in asked), default=0)
    status = DONE
    workers = _Workers(min(MOST_ABREAST, len(asked)), partial(_ping, settings))
    answers = [workers.submit(id_.encode()) for id_, _ in asked]
    for (id_, host), answer in zip(asked, answers, strict=True):
        reply, seconds = answer.result()
        print(f"{id_:<{width}}  {seconds * 1000:8.1f} ms  {printable(reply)}", flush=True)
        if reply == lonnet.CON_LOST:
            status = FAILED
            complain(settings, host.name)
    return status


def _ping(settings: Settings, host: bytes) -> tuple[bytes, float]:
    """The reply, and how long it took in seconds."""
    begun = time.monotonic()
    reply = lonnet.reply("ping", host.decode(), timeout=PING_TIMEOUT, settings=settings)
    return reply, time.monotonic() - begun


def _id(named: str, host: Host) -> str:
    """Whom it is for: the id that was named, or the first behind a DNS name."""
    return named if named in host.ids else host.id


def complain(settings: Settings, name: str) -> None:
    """con_lost may mean that no lonc was there to be asked: say so."""
    path = settings.socket_directory / name
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        refusal = probe.connect_ex(str(path))
    if refusal in (errno.ENOENT, errno.ECONNREFUSED):
        print_error(f"nobody listens at {path}: is lonc running?")
    elif refusal not in (0, errno.EAGAIN):
        print_error(f"cannot connect to {path}: {os.strerror(refusal)}")


def _complain_of_keys(settings: Settings) -> None:
    """con_failed may mean that it could not be sealed."""
    try:
        require_keys(settings.delayed_key_file)
    except CannotStart as error:
        print_error(error)
