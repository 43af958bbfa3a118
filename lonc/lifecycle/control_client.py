"""Sends orders to the daemon through its control socket and checks the answers."""

from __future__ import annotations

import json
import socket
import time
from typing import Any, NamedTuple

from lonc.configuration import Settings
from lonc.errors import LoncError, NoPermission, NotRunning
from lonc.lifecycle.instance import holder_of_lock
from lonc.monitoring.status import Phase, Report
from lonc.runtime.line_buffer import RECEIVE_SIZE
from lonc.runtime.socket_file import peer_pid

ANSWER_WITHIN = 5.0  # seconds; the parent itself waits one second for its children
MAX_ANSWER = 1 << 26  # bytes; a report of 10,000 hosts with all their changes has about 50 MB

CANNOT_READ = "its answer cannot be read: is it of another version?"


class Outcome(NamedTuple):
    """How an order ended: the exit status of the command, and sentences for a person."""

    status: int
    text: str


def ask(settings: Settings, order: str, timeout: float = ANSWER_WITHIN) -> bytes:
    """Send `order`, one that `lonc.parent.orders` lists; returns the daemon's answer, a line.

    `timeout`: seconds for all of it. Raises NotRunning, NoPermission, and LoncError if there is no
    answer, or one longer than MAX_ANSWER, or if the process that listens does not hold the lock.
    """
    path = settings.control_file
    deadline = time.monotonic() + timeout
    answer = bytearray()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        try:
            client.connect(str(path))
            _require_daemon(settings, client)
            client.sendall(order.encode() + b"\n")
            while not answer.endswith(b"\n") and (data := client.recv(RECEIVE_SIZE)):
                answer += data
                if len(answer) > MAX_ANSWER:
                    raise LoncError(f"the answer at {path} is longer than {MAX_ANSWER >> 20} MiB")
                if (left := deadline - time.monotonic()) <= 0:
                    raise TimeoutError
                client.settimeout(left)
        except PermissionError as error:
            raise NoPermission(f"cannot use {path}: {error.strerror}") from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(f"nobody listens at {path}") from error
        except TimeoutError as error:
            raise LoncError(f"no answer at {path} within {timeout:.0f} s") from error
        except OSError as error:
            raise LoncError(f"cannot ask at {path}: {error.strerror}") from error
    if not answer.endswith(b"\n"):
        raise LoncError("lonc has ended meanwhile")
    return bytes(answer)


def ask_outcome(settings: Settings, order: str, timeout: float) -> Outcome:
    """Send an order that is answered with an outcome. Raises as `ask`, and LoncError if it is none."""
    match _value(ask(settings, order, timeout)):
        case {"exit": int(status), "text": str(text)} if 0 <= status <= 255:
            return Outcome(status, text)
    raise LoncError(CANNOT_READ)


def ask_report(settings: Settings) -> Report:
    """The status report. Raises as `ask`, and LoncError if it cannot be read."""
    try:
        return Report.from_line(ask(settings, "status"))
    except ValueError:
        raise LoncError(CANNOT_READ) from None


def ask_json(settings: Settings, order: str) -> Any:
    """The answer as a value, which may be any. Raises as `ask`, and LoncError if it is no JSON."""
    return _value(ask(settings, order))


def ask_phase(settings: Settings) -> Phase | None:
    """The phase that the daemon reports; None if it does not answer."""
    try:
        return ask_report(settings).phase
    except LoncError:
        return None


def _value(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise LoncError(CANNOT_READ) from None


def _require_daemon(settings: Settings, client: socket.socket) -> None:
    """Raises LoncError if another process listens than the one that holds the lock.

    Either pid may be unknown: of a daemon in another container, or whose lock file was removed.
    """
    try:
        holder = holder_of_lock(settings)
    except OSError:
        holder = None
    peer = peer_pid(client)
    if holder and peer and holder != peer:
        path = settings.control_file
        raise LoncError(f"process {peer} listens at {path}, and is not lonc, which has pid {holder}")
