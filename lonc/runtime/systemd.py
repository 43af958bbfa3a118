"""Tells systemd what the daemon is about, where it was started as a service of Type=notify."""

from __future__ import annotations

import contextlib
import os
import socket
import time

READY = "READY=1"
STOPPING = "STOPPING=1"


def reloading() -> str:
    """The word for a reload that begins now; systemd wants the monotonic time of it, in microseconds."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def notify(words: str) -> None:
    """Send `words`; does nothing where nobody asked for them, or nobody hears."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.setblocking(False)
        speaker.sendto(words.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
