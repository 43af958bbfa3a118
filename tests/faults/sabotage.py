"""What makes a process of lonc fail at one step: it is killed there, or its disk fails."""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

import lonc

_REAL = {}  # what was spoilt before, by its name
_OURS = str(Path(lonc.__file__).parent)


def kill(step):
    """Kill this process, but none that it forks, at that call out of lonc's own code from here on."""
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
    """From now on the `nth` call of os.NAME fails, a write when half is done. Returns a list that is
    empty until then."""
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


def after(owner, name, order):
    """From now on, whoever comes to `owner.name` does what the file `order` says, once: the name of one
    of the functions above and its arguments, as JSON. What it did before is over."""
    original = getattr(owner, name)

    def call(*arguments, **options):
        try:
            what, *how = json.loads(Path(order).read_bytes())
        except FileNotFoundError:
            pass
        else:
            for spoilt, real in _REAL.items():
                setattr(os, spoilt, real)
            os.unlink(order)
            {"kill": kill, "spoil": spoil}[what](*how)
        return original(*arguments, **options)

    setattr(owner, name, call)


def give(order, *what):
    """Write the file that `after` reads."""
    being_written = order.with_name(".order")
    being_written.write_text(json.dumps(what))
    being_written.rename(order)
