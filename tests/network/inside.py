"""Runs a program in a network namespace, if need be with files of its own in place of the system's.

python inside.py NAMESPACE [SOURCE=TARGET …] -- COMMAND …

NAMESPACE is the path of a /proc/PID/ns/net or of a descriptor of it. The process id stays the same. The
program is killed when the thread that has started it ends, so that a test that is killed leaves none.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from network.namespaces import bind_mounts, die_with_parent, enter


def main(namespace, *words):
    die_with_parent()
    end = words.index("--")
    fd = os.open(namespace, os.O_RDONLY)
    enter(fd)
    os.close(fd)
    if end:
        bind_mounts([word.split("=", 1) for word in words[:end]])
    command = words[end + 1 :]
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
