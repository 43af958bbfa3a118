"""Another process's end of its channel, taken as a program of the same user could."""

import contextlib
import ctypes
import os
import socket
import struct

_PIDFD_GETFD = 438  # system call number, on all architectures
_syscall = ctypes.CDLL(None, use_errno=True).syscall


def steal_channel(child: int, parent: int) -> socket.socket:
    """The socket of process `child` whose other end the process `parent` made."""
    pidfd = os.pidfd_open(child)
    try:
        for number in sorted(int(each) for each in os.listdir(f"/proc/{child}/fd")):
            taken = _syscall(_PIDFD_GETFD, pidfd, number, 0)
            if taken < 0:
                continue
            found = _socket(taken)
            if found is None:
                continue
            if _is_channel(found, parent):
                return found
            found.close()
    finally:
        os.close(pidfd)
    raise LookupError(f"process {child} has no channel to {parent}")


def _socket(number: int) -> socket.socket | None:
    with contextlib.suppress(OSError):
        return socket.socket(fileno=number)
    os.close(number)
    return None


def _is_channel(found: socket.socket, parent: int) -> bool:
    if found.family != socket.AF_UNIX or found.getsockname() != "":
        return False
    pid, _, _ = struct.unpack("iII", found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid == parent and not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
