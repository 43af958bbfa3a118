"""Makes a process of lonc fail at one step: it is killed there, or a call of the system fails.

The `at_…` functions are preparations for `support.machine.program`: they say where the process reads the
file that names the failure.
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

from support.preparations import restart_at_once

import lonc
from lonc.child.replay import Replay
from lonc.parent.parent import Parent

_REAL = {}  # name of a function of os -> the original, once it was replaced
_OURS = str(Path(lonc.__file__).parent)


def kill(step):
    """Kill this process, but none that it forks, at the call of that number.

    Calls made by lonc's own code are counted, from 1 and from here on.
    """
    me, left = os.getpid(), step

    def count(frame, event, _):
        nonlocal left
        if event not in ("call", "c_call") or not frame.f_code.co_filename.startswith(_OURS):
            return
        if os.getpid() == me:
            left -= 1
            if left == 0:
                os.kill(me, signal.SIGKILL)

    sys.setprofile(count)


def spoil(name, nth, error):
    """Let the `nth` call of os.NAME from here on fail with that errno; a write has written half by then.

    Returns a list that is empty until it has failed.
    """
    original = _REAL.setdefault(name, getattr(os, name))
    calls = itertools.count(1)
    failed = []

    def call(*arguments, **options):
        if next(calls) != nth:
            return original(*arguments, **options)
        failed.append(name)
        if name == "write":
            original(arguments[0], arguments[1][: len(arguments[1]) // 2])
        raise OSError(error, os.strerror(error))

    setattr(os, name, call)
    return failed


def obeying(original, order):
    """A function for `original` that first does what the file `order` says, and removes that file.

    The file names one of the two functions above and its arguments, as JSON; the changes of an earlier
    file are undone first. Without the file only `original` is called.
    """

    def call(*arguments, **options):
        try:
            function, *arguments_of = json.loads(Path(order).read_bytes())
        except FileNotFoundError:
            pass
        else:
            for spoilt, real in _REAL.items():
                setattr(os, spoilt, real)
            os.unlink(order)
            {"kill": kill, "spoil": spoil}[function](*arguments_of)
        return original(*arguments, **options)

    return call


def at_parent_start(order):
    restart_at_once()
    Parent.run = obeying(Parent.run, order)


def at_reload(order):
    restart_at_once()
    Parent._reload = obeying(Parent._reload, order)


def at_replay(order):
    """When a child is about to carry out a delayed transaction."""
    restart_at_once()
    Replay._take = obeying(Replay._take, order)


def give(order, *what):
    """Write the file that `obeying` reads."""
    being_written = order.with_name(".order")
    being_written.write_text(json.dumps(what))
    being_written.rename(order)
