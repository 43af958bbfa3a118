import os
import resource
import signal

import pytest

from lonc.process import ending, raise_descriptor_limit


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "left"),
        (3 << 8, "ended with status 3"),
        (signal.SIGKILL, "was ended by SIGKILL"),
        (signal.SIGSEGV | 0x80, "was ended by SIGSEGV"),
        (34, "was ended by SIGRTMIN"),
        (40, "was ended by signal 40"),
    ],
)
def test_how_a_child_ended_in_words(status, words):
    assert ending(status) == words


def test_the_limit_of_descriptors_is_raised_as_far_as_allowed():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
        raised = raise_descriptor_limit() == 128 == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        os._exit(0 if raised else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
