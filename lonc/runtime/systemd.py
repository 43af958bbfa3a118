"""Notifies systemd of the daemon's state (sd_notify(3)), in a service of Type=notify."""

from __future__ import annotations

import contextlib
import os
import socket
import time

READY = "READY=1"
STOPPING = "STOPPING=1"


def reloading() -> str:
    """The message for a reload that begins now, with the monotonic time in microseconds."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def notify(message: str) -> None:
    """Send `message`; does nothing without NOTIFY_SOCKET, or if the socket takes no message."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(message.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
