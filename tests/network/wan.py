"""A wide area network for a test: two machines, as network namespaces, and an emulated network between.

Nothing of it is visible outside, and all of it ends with the emulator's process.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from network.emulator import LOCAL_ADDRESS, LOCAL_ADDRESS6, make_namespace
from network.namespaces import entered
from support.machine import in_child

HERE = Path(__file__).parent


def why_not():
    """Why namespaces with tun devices cannot be made here, as a sentence; "" if they can."""

    def attempt():
        try:
            make_namespace([LOCAL_ADDRESS], LOCAL_ADDRESS6)
        except OSError as error:
            return f"network namespaces with tun devices may not be made here: {error.strerror}"
        return ""

    return in_child(attempt)


class Namespace:
    """One of the two machines. `path` leads to its network namespace as long as the emulator runs."""

    def __init__(self, path):
        self.path = path

    def inside(self, command, files=()):
        """The command that runs `command` in this namespace; its process id stays the same.

        `files` are pairs (source, target): for that program each source is mounted over its target.
        """
        mounts = [f"{source}={target}" for source, target in files]
        return [sys.executable, str(HERE / "inside.py"), self.path, *mounts, "--", *map(str, command)]

    @contextlib.contextmanager
    def entered(self):
        """Move this thread into the namespace for a while. Sockets created there stay there."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with entered(fd):
                yield
        finally:
            os.close(fd)


class Wan:
    """`local` and `remote` are the two machines. Use as a context manager, or close it.

    A change is in force when the call returns. Conditions are those of link.Conditions;
    `direction` is link.OUT, from local to remote, or link.BACK, or None for both.
    """

    def __init__(self, seed=1, forget_after=0.0, **conditions):
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "emulator.py"), str(theirs.fileno()), str(seed)],
                pass_fds=[theirs.fileno()],
            )
        self._control = ours
        self._control.settimeout(30)
        self._lines = ours.makefile("rb")
        try:
            greeting = self._answer()
            self.local, self.remote = (
                Namespace(f"/proc/{greeting['pid']}/fd/{greeting[each]}") for each in ("local", "remote")
            )
            self.change(**conditions)
            self.forget_after(forget_after)
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """End the emulator, and with it the namespaces and the connections in them."""
        self._lines.close()
        self._control.close()
        self.process.wait(20)

    def change(self, direction=None, **conditions):
        self._order(change=conditions, direction=direction)

    def calm(self):
        """No delay, no loss, no limit, nothing dropped; the firewall forgets nothing more."""
        nothing = {"delay_ms": 0, "jitter_ms": 0, "loss": 0, "rate": 0, "reorder": 0}
        self.change(**nothing, down=False, drop_ipv6=False, mtu=65535)
        self.forget_after(0)

    def down(self, direction=None):
        """A partition: no packet arrives any more, those under way included."""
        self.change(direction, down=True)

    def up(self, direction=None):
        self.change(direction, down=False)

    def forget_after(self, seconds):
        """The firewall forgets a TCP flow when it has been idle for so long; 0 is never."""
        self._order(forget_after=seconds)

    def forget(self):
        """The firewall forgets all flows of this moment."""
        self._order(forget=True)

    def counts(self):
        """Packets of each direction: `{"out": {"sent": 12, "lost": 1}, "back": {…}}`.

        Those that do not arrive are counted as down, ipv6, too long, forgotten, lost or queue full.
        """
        return self._order(counts=True)

    def _order(self, **order):
        self._control.sendall(json.dumps(order).encode() + b"\n")
        return self._answer()

    def _answer(self):
        line = self._lines.readline()
        assert line, "the emulator has ended"
        return json.loads(line)
