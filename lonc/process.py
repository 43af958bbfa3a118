"""What a process asks of the kernel: how many descriptors, to end with its parent, how a child ended."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def die_with(parent_pid: int) -> None:
    """Be killed when the parent ends, however it ends, and even if it already has."""
    if _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise AssertionError("Linux has PR_SET_PDEATHSIG since 2.1.57")
    if os.getppid() != parent_pid:
        os._exit(1)


def ending(status: int) -> str:
    """How a child ended, in words, from what waitpid said."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"was ended by {_signal_name(-code)}"
    return "left" if code == 0 else f"ended with status {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # Python has no names for most of the real-time signals
        return f"signal {number}"
