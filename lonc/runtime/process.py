"""Forks, descriptor limits, signals, and exit statuses: what a process asks of the kernel."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
from collections.abc import Callable, Iterable

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
SPARE_DESCRIPTORS = 32  # per process, beside listeners, channels, clients and lond connections
_prctl = ctypes.CDLL(None).prctl  # before any fork: else each child would have pages of its own for it

# Signals that cannot be ignored, that report a fault of the program, or that do not end a process.
_NOT_IGNORED = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGURG,
    signal.SIGWINCH,
}


def fork(run: Callable[[], int]) -> int:
    """Fork; the new process calls `run` and exits with the status that it returns, or 1 if it raises.

    All signals are blocked in it, so that none calls a handler of the parent. Returns its pid. Raises
    OSError.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.set_wakeup_fd(-1)  # else the child's signals would wake the parent's loop
                gc.freeze()  # else a collection here would close descriptors of the parent's garbage
                status = run()
            finally:  # never return into the frames of the parent
                os._exit(status)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def close_all_except(descriptors: Iterable[int]) -> None:
    """Close all descriptors but these and the standard streams.

    Nothing is unregistered first: after a fork, the parent's epoll is the same object.
    """
    kept = sorted({*descriptors, 0, 1, 2})
    for low, high in zip(kept, [*kept[1:], descriptor_limit()], strict=True):
        os.closerange(low + 1, high)


def descriptor_limit() -> int:
    """The hard limit of open descriptors, which `raise_descriptor_limit` makes the soft one."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def resident_memory() -> int:
    """Resident memory of this process in bytes, including shared pages."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one; returns it."""
    hard = descriptor_limit()
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def forbid_core_dumps() -> None:
    """For this process and its children: their memory holds passwords."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def forbid_tracing() -> None:
    """Let no other process of this user trace this one or its children, or read their memory.

    A change of the user or an exec undoes it.
    """
    _prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def ignore_signals(except_for: Iterable[int]) -> None:
    """Ignore all signals that would end the process, except those that it handles.

    The exceptions are not ignored even until their handlers are set: a pending signal would be lost.
    """
    for signum in signal.valid_signals() - _NOT_IGNORED - set(except_for):
        signal.signal(signum, signal.SIG_IGN)


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends; exit now if it has already ended."""
    if _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise AssertionError("Linux has PR_SET_PDEATHSIG since 2.1.57")
    if os.getppid() != parent_pid:
        os._exit(1)


def exit_reason(status: int) -> str:
    """The status of waitpid(2) in words: "exited", "exited with status 3", "was killed by SIGKILL"."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"was killed by {_signal_name(-code)}"
    return "exited" if code == 0 else f"exited with status {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name in Python
        return f"signal {number}"
