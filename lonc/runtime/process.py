"""What a process asks of the kernel: forks, descriptors, signals, and how its children end."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import signal
from collections.abc import Callable, Iterable

PR_SET_PDEATHSIG = 1
SPARE_DESCRIPTORS = 32  # of each process, beside listeners, channels, clients and lond connections
_prctl = ctypes.CDLL(None).prctl  # (found once: each child's look would be pages of its own)

# Left as they are: what nobody can change, what says that the program itself is at fault, and what ends
# nothing (job control, a child's end, a window's new size).
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
    """The pid of a new process, which does `run` and ends with the status that it returns.

    All signals are blocked in it, so that none meets a handler of its parent's. Raises OSError.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.set_wakeup_fd(-1)  # the parent's loop would wake for our signals
                gc.freeze()  # what the parent left lying is not ours to close
                status = run()
            finally:  # never back into the frames that it was forked from
                os._exit(status)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def close_all_except(descriptors: Iterable[int]) -> None:
    """Close every other descriptor but the standard streams, by number.

    Nothing is unregistered first: an epoll is shared with the process that forked us.
    """
    kept = sorted({*descriptors, 0, 1, 2})
    for low, high in zip(kept, [*kept[1:], descriptor_limit()], strict=True):
        os.closerange(low + 1, high)


def descriptor_limit() -> int:
    """How many files may be open at most, once the limit is raised."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def resident_memory() -> int:
    """Bytes of this process that are in memory, those it shares with others, too."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns it."""
    hard = descriptor_limit()
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def forbid_core_dumps() -> None:
    """What is in our memory, passwords too, stays there; in that of children as well."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def ignore_signals(except_for: Iterable[int]) -> None:
    """Ignore whatever would end us and means nothing to us, all `but` what is heard.

    (To ignore those too, until their handlers are set, would lose one that is pending already.)
    """
    for signum in signal.valid_signals() - _NOT_IGNORED - set(except_for):
        signal.signal(signum, signal.SIG_IGN)


def die_with_parent(parent_pid: int) -> None:
    """Be killed when the parent ends, however it ends, and even if it already has."""
    if _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise AssertionError("Linux has PR_SET_PDEATHSIG since 2.1.57")
    if os.getppid() != parent_pid:
        os._exit(1)


def exit_reason(status: int) -> str:
    """How a child ended, in words, from what waitpid said."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"was killed by {_signal_name(-code)}"
    return "exited" if code == 0 else f"exited with status {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # Python has no names for most of the real-time signals
        return f"signal {number}"
