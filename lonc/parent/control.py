"""The control socket: an order to the daemon, one line, and its answer, one line of JSON."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping

from lonc.child.transaction import Transaction
from lonc.configuration import Settings
from lonc.errors import USAGE, LoncError, NoPermission, NotRunning
from lonc.monitoring.status import Phase, Report

MODE = 0o600  # who may use it may restart everything

ANSWER_WITHIN = 5.0  # seconds; the parent itself waits one second for its children
RECEIVE_SIZE = 65536


class Orders:
    """Each of `orders` gets a transaction, to be completed with the answer; each of `host_orders` also
    the host that the order names."""

    def __init__(
        self,
        orders: Mapping[str, Callable[[Transaction], None]],
        host_orders: Mapping[str, Callable[[Transaction, str], None]],
    ) -> None:
        self._orders = orders
        self._host_orders = host_orders

    def take(self, transaction: Transaction) -> None:
        order = transaction.request.decode(errors="backslashreplace").rstrip("\n")
        word, _, host = order.partition(" ")
        if order in self._orders:
            self._orders[order](transaction)
        elif host and word in self._host_orders:
            self._host_orders[word](transaction, host)
        else:
            transaction.complete(outcome(USAGE, f"there is no order {order!r}"))


def outcome(status: int, text: str, **more: float) -> bytes:
    """The answer to an order that does something; the exit status is for the command that gave it."""
    return json.dumps({"exit": status, "text": text, **more}).encode() + b"\n"


def ask(settings: Settings, order: str, timeout: float = ANSWER_WITHIN) -> bytes:
    """The other side: the daemon's answer, a line; `timeout` is in seconds.

    Raises NotRunning, NoPermission, and LoncError where it does not answer.
    """
    path = settings.control_file
    answer = bytearray()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(timeout)
        try:
            asking.connect(str(path))
            asking.sendall(order.encode() + b"\n")
            while not answer.endswith(b"\n") and (data := asking.recv(RECEIVE_SIZE)):
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
    """What the daemon says it is about; None if it does not say."""
    try:
        return Report.from_line(ask(settings, "status")).phase
    except (LoncError, ValueError):
        return None
