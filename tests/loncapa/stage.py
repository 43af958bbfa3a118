"""Runs commands in namespaces of their own, where other directories are /home and /etc.

python stage.py HOME ETC reads commands from standard input, one a line, and runs each with sh, as root.
What a command prints goes to standard output, and then a line `= STATUS`. All processes that it has
started end with this one.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from network.namespaces import CLONE_NEWNET, bind_mounts, die_with_parent, set_up, unshare

CLONE_NEWPID = 0x20000000


def main(home, etc):
    die_with_parent()
    unshare(CLONE_NEWPID | CLONE_NEWNET)
    if first := os.fork():
        os.waitpid(first, 0)
        return
    # The first process of the namespace: when it ends, the kernel kills all others.
    die_with_parent()
    set_up("lo")
    bind_mounts([(home, "/home"), (etc, "/etc")])
    ctypes.CDLL(None).mount(b"proc", b"/proc", b"proc", ctypes.c_ulong(0), None)
    running = os.fork()
    if running == 0:
        run_commands()
        os._exit(0)
    while os.wait()[0] != running:
        pass


def run_commands():
    os.chdir("/")
    for line in sys.stdin:
        status = subprocess.run(
            ["sh", "-c", line], check=False, stdin=subprocess.DEVNULL, stderr=1
        ).returncode
        print(f"= {status}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
