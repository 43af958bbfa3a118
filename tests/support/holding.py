"""Something that another process holds."""

import os
import signal
from contextlib import contextmanager


@contextmanager
def held_elsewhere(take):
    """A forked process calls `take` and keeps what it returns; yields its pid.

    It is killed at the end.
    """
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            taken = take()
            os.write(theirs, b"+")
            while taken is not None:
                signal.pause()
        finally:
            os._exit(1)
    os.close(theirs)
    try:
        assert os.read(ours, 1) == b"+", "it could not be taken"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ours)
