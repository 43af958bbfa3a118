import os
import resource
import signal

import pytest

from lonc.runtime.process import (
    close_all_except,
    exit_reason,
    fork,
    ignore_signals,
    raise_descriptor_limit,
)


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


def test_a_fork_never_gets_back_into_the_frames_of_its_parent():
    child = fork(lambda: 1 // 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_only_what_is_named_is_kept():
    one, other = os.pipe()

    def run():
        close_all_except([other])
        held = set(map(int, os.listdir("/proc/self/fd")))  # one of them is the directory itself
        return 0 if {0, 1, 2, other} < held and len(held) == 5 else 1

    child = fork(run)
    os.close(one)
    os.close(other)
    assert os.waitpid(child, 0)[1] == 0


def test_what_means_nothing_is_ignored_and_what_is_heard_is_not_even_for_an_instant():
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
