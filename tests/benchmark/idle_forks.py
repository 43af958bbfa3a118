"""A Python that has loaded the modules of lonc and forks idle children.

    python -m tests.benchmark.idle_forks COUNT

Prints a line once every child runs.
"""

import os
import signal
import sys

import lonc.commands.cli
import lonc.lifecycle.start  # noqa: F401 (its memory is what is compared)

if __name__ == "__main__":
    count = int(sys.argv[1])
    readable, writable = os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            os.close(1)  # so that its reader gets EOF when the parent ends
            os.write(writable, b"x")
            signal.pause()
    for _ in range(count):
        os.read(readable, 1)
    print("ready", flush=True)
    signal.pause()
