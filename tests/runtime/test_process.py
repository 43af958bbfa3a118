import gc
import os
import re
import resource
import select
import signal
import socket
import time
from pathlib import Path

import pytest

from lonc.runtime.process import (
    close_all_except,
    die_with_parent,
    exit_reason,
    forbid_core_dumps,
    fork,
    ignore_signals,
    raise_descriptor_limit,
    resident_memory,
)


def status_of(run):
    """The exit status of a fork that calls `run`."""
    return os.waitstatus_to_exitcode(os.waitpid(fork(run), 0)[1])


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exited"),
        (3 << 8, "exited with status 3"),
        (signal.SIGKILL, "was killed by SIGKILL"),
        (signal.SIGSEGV | 0x80, "was killed by SIGSEGV"),
        (34, "was killed by SIGRTMIN"),
        (40, "was killed by signal 40"),
    ],
)
def test_how_a_child_ended_in_words(status, words):
    assert exit_reason(status) == words


def test_the_limit_of_descriptors_is_raised_as_far_as_allowed():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
        raised = raise_descriptor_limit() == 128 == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        os._exit(0 if raised else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


def test_a_fork_ends_with_the_status_that_it_returns_and_with_all_signals_blocked():
    def run():
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return 7 if blocked >= {signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD} else 1

    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    child = fork(run)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_fork_never_returns_into_the_frames_of_its_parent():
    child = fork(lambda: 1 // 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_only_the_named_descriptors_stay_open():
    one, other = os.pipe()

    def run():
        close_all_except([other])
        held = set(map(int, os.listdir("/proc/self/fd")))  # one of them is the directory itself
        return 0 if {0, 1, 2, other} < held and len(held) == 5 else 1

    child = fork(run)
    os.close(one)
    os.close(other)
    assert os.waitpid(child, 0)[1] == 0


def test_signals_are_ignored_and_the_exceptions_not_even_for_an_instant():
    def run():
        os.kill(os.getpid(), signal.SIGTERM)  # pending: all are blocked
        ignore_signals(except_for=[signal.SIGTERM])
        heard = []
        signal.signal(signal.SIGTERM, lambda *_: heard.append("TERM"))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM, signal.SIGRTMIN, signal.SIGPIPE):
            os.kill(os.getpid(), signum)
        defaults = [signal.getsignal(each) for each in (signal.SIGSEGV, signal.SIGTSTP, signal.SIGABRT)]
        return 0 if heard == ["TERM"] and set(defaults) == {signal.SIG_DFL} else 1

    child = fork(run)
    assert os.waitpid(child, 0)[1] == 0


def test_a_forks_signals_do_not_wake_its_parent_and_its_garbage_is_not_collected():
    here, there = socket.socketpair()
    there.setblocking(False)
    signal.set_wakeup_fd(there.fileno())
    try:
        assert status_of(lambda: 7 if signal.set_wakeup_fd(-1) == -1 else 1) == 7
    finally:
        signal.set_wakeup_fd(-1)
        here.close()
        there.close()
    assert status_of(lambda: 7 if gc.get_freeze_count() > 1000 else 1) == 7


def test_core_dumps_are_forbidden():
    def run():
        forbid_core_dumps()
        return 7 if resource.getrlimit(resource.RLIMIT_CORE) == (0, 0) else 1

    assert status_of(run) == 7


def test_resident_memory_is_that_of_the_kernel():
    status = Path("/proc/self/status").read_text()
    kernels = int(re.search(r"VmRSS:\s*(\d+) kB", status)[1]) * 1024
    virtual = int(re.search(r"VmSize:\s*(\d+) kB", status)[1]) * 1024
    assert abs(resident_memory() - kernels) < (virtual - kernels) / 2


def test_a_process_whose_parent_has_ended_already_ends():
    def run():
        die_with_parent(os.getppid())
        die_with_parent(1 << 30)  # another process is its parent by now
        return 7

    assert status_of(run) == 1


def test_a_process_ends_when_its_parent_ends():
    alive, in_it = os.pipe()
    go_on, go = os.pipe()

    def child():
        parent = os.getpid()

        def grandchild():
            die_with_parent(parent)
            os.write(in_it, b"x")
            time.sleep(20)
            return 0

        fork(grandchild)
        os.close(in_it)
        os.close(go)
        os.read(go_on, 1)
        return 0

    pid = fork(child)
    os.close(in_it)
    assert os.read(alive, 1) == b"x"
    os.write(go, b"x")
    os.waitpid(pid, 0)
    assert select.select([alive], [], [], 10)[0]
    assert os.read(alive, 1) == b""  # nobody has the other end any more
    for fd in (alive, go_on, go):
        os.close(fd)
