"""The commands that send requests: send and ping."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import socket
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
from lonc.commands.output import print_error, say
from lonc.commands.progress import Progress
from lonc.configuration import Settings
from lonc.errors import DONE, FAILED, CannotStart, UsageError
from lonc.escape import escaped
from lonc.hosts import Host, find_host
from lonc.replies import NO_ID
from lonc.setting_types import HOST_ID
from lonc.spool.sealing import require_keys
from lonc.spool.spool import require_room

PING_TIMEOUT = 10.0  # seconds
MAX_PARALLEL = 256  # threads
UNSET_ID = "default"  # a later lond's id for a connection on which there was no `sethost`

T = TypeVar("T")


def send(options: argparse.Namespace) -> int:
    settings, hosts = load(options)
    host = find_host(hosts, options.host, settings.hosts_file)
    if not 1 <= options.parallel <= MAX_PARALLEL:
        raise UsageError(f"--parallel must be 1 to {MAX_PARALLEL}")
    request = os.fsencode(options.request)
    escape = sys.stdout.isatty() and not options.raw  # a reply could control the terminal
    status = DONE
    sender = _Sender(settings, _id(options.host, host), options.critical)
    with Progress() as progress, contextlib.closing(sender):
        requests = progress.count_requests(sys.stdin.buffer) if request == b"-" else iter([request])
        for reply in sender.send(requests, options.parallel):
            if escape:
                say(escaped(reply))
            else:
                sys.stdout.buffer.write(reply + b"\n")
                sys.stdout.buffer.flush()
            if reply in (lonnet.CON_LOST, lonnet.CON_FAILED):
                status = FAILED
                print_socket_error(settings, host.name)
            if reply == lonnet.CON_FAILED:
                _print_spool_error(settings, _id(options.host, host))
            progress.replied()
    return status


class _Workers(Generic[T]):
    """`count` threads that call `function`. They are daemon threads: ^C does not wait for them."""

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
            except Exception as error:  # raised again by Future.result
                future.set_exception(error)


class _Sender:
    """Sends requests to one host; each thread has a connection of its own."""

    def __init__(self, settings: Settings, host: str, critical: bool) -> None:
        self._settings = settings
        self._host = host
        self._critical = critical
        self._own = threading.local()
        self._opened: list[lonnet.Lonc] = []

    def close(self) -> None:
        """Close the connections that are not in use."""
        for lonc in self._opened:
            lonc.close()

    def send(self, requests: Iterable[bytes], parallel: int) -> Iterator[bytes]:
        """Yield the replies in the order of the requests, with `parallel` requests in flight.

        Raises UsageError for a request that is not one line.
        """
        workers = _Workers(parallel, self._send)
        in_flight: deque[Future[bytes]] = deque()
        for request in requests:
            in_flight.append(workers.submit(request.removesuffix(b"\n")))
            # With one request in flight, print its reply before waiting for the next line of input.
            while len(in_flight) >= parallel:
                yield self._result(in_flight.popleft())
        while in_flight:
            yield self._result(in_flight.popleft())

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


def ping(options: argparse.Namespace) -> int:
    settings, hosts = load(options)
    found = [(each, find_host(hosts, each, settings.hosts_file)) for each in options.hosts]
    targets = [(_id(each, host), host) for each, host in found]
    targets = targets or [(id_, host) for host in hosts for id_ in host.ids]
    width = max((len(id_) for id_, _ in targets), default=0)
    status = DONE
    workers = _Workers(min(MAX_PARALLEL, len(targets)), partial(_ping, settings))
    answers = [workers.submit(id_.encode()) for id_, _ in targets]
    for (id_, host), answer in zip(targets, answers, strict=True):
        reply, seconds = answer.result()
        say(f"{id_:<{width}}  {seconds * 1000:8.1f} ms  {escaped(reply)}")
        if reply == lonnet.CON_LOST:
            status = FAILED
            print_socket_error(settings, host.name)
        elif other := _other_id(id_, reply):
            status = FAILED
            print_error(f"{id_}: the reply is of {other}: {_why_other_id(other)}")
    return status


def _other_id(asked: str, reply: bytes) -> str | None:
    """The host id that has replied to `ping`, if it is not the one that was asked."""
    text = reply.decode(errors="replace")
    if text == asked or NO_ID.match(reply) or not HOST_ID.fullmatch(text):
        return None
    return text


def _why_other_id(other: str) -> str:
    if other == UNSET_ID:
        return "lond was not asked for a host, so its keys do not fit; try loncKeyMode insecure"
    return "the address or DNS name in the table leads to another host"


def _ping(settings: Settings, host: bytes) -> tuple[bytes, float]:
    """The reply, and the seconds until it arrived."""
    begun = time.monotonic()
    reply = lonnet.reply("ping", host.decode(), timeout=PING_TIMEOUT, settings=settings)
    return reply, time.monotonic() - begun


def _id(named: str, host: Host) -> str:
    """The id to send to: the one that was named, or the first id of a DNS name."""
    return named if named in host.ids else host.id


def print_socket_error(settings: Settings, name: str) -> None:
    """After con_lost: print an error if the socket of the host `name` cannot be connected to."""
    path = settings.socket_directory / name
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        refusal = probe.connect_ex(str(path))
    if refusal in (errno.ENOENT, errno.ECONNREFUSED):
        print_error(f"nothing listens at {path}: is lonc running?")
    elif refusal not in (0, errno.EAGAIN):
        print_error(f"cannot connect to {path}: {os.strerror(refusal)}")


def _print_spool_error(settings: Settings, host_id: str) -> None:
    """After con_failed: print an error if the keys that seal delayed transactions are unusable, or if
    the host has as many as it may have."""
    try:
        require_keys(settings.delayed_key_file)
        require_room(settings, 1, host_id)
    except CannotStart as error:
        print_error(error)
    except OSError as error:
        print_error(error.strerror)
