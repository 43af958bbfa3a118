import signal

import pytest


@pytest.fixture(autouse=True)
def no_test_hangs():
    """A call that blocks, such as an open of a FIFO, fails its test after 30 seconds."""

    def fail(*_):
        raise TimeoutError("the test hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, 30)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
