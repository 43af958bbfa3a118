"""Sends orders to the daemon through its control socket and receives the answers."""

from __future__ import annotations

import socket

from lonc.configuration import Settings
from lonc.errors import LoncError, NoPermission, NotRunning
from lonc.monitoring.status import Phase, Report
from lonc.runtime.line_buffer import RECEIVE_SIZE

ANSWER_WITHIN = 5.0  # seconds; the parent itself waits one second for its children


def ask(settings: Settings, order: str, timeout: float = ANSWER_WITHIN) -> bytes:
    """Send `order`, one that `lonc.parent.orders` lists; returns the daemon's answer, a line.

    `timeout` is in seconds. Raises NotRunning, NoPermission, and LoncError if there is no answer.
    """
    path = settings.control_file
    answer = bytearray()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        try:
            client.connect(str(path))
            client.sendall(order.encode() + b"\n")
            while not answer.endswith(b"\n") and (data := client.recv(RECEIVE_SIZE)):
                answer += data
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


def ask_phase(settings: Settings) -> Phase | None:
    """The phase that the daemon reports; None if it does not answer."""
    try:
        return Report.from_line(ask(settings, "status")).phase
    except (LoncError, ValueError):
        return None
