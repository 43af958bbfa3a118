"""What scenarios have in common: the usual start, and waiting that gives a time."""

import os
import time

from network.crowd import Crowd
from support.machine import eventually


def when(predicate, seconds, every=0.02):
    """After how many seconds it was true first; None if it was not within so many."""
    begun = time.monotonic()
    while not predicate():
        if time.monotonic() - begun > seconds:
            return None
        time.sleep(every)
    return time.monotonic() - begun


def rounded(figures, digits=2):
    return {
        name: round(figure, digits) if isinstance(figure, float) else figure
        for name, figure in figures.items()
    }


def left_in(machine):
    """Names of the delayed transactions that wait."""
    directory = machine.sockets / "delayed"
    if not directory.exists():
        return []
    return [name for name in os.listdir(directory) if not name.startswith(".") and name != "bad"]


def connections(machine):
    """How many lonc has, in whatever state."""
    return sum(machine.status()["connections"].values())


def start(machine, delay_ms=10.0, lond=True, options=(), **settings):
    """Start lonc, and a lond with these options unless `lond` is false; returns the lond."""
    machine.configure(**settings)
    machine.wan.change(delay_ms=delay_ms)
    made = machine.lond(options=options) if lond else None
    machine.run()
    return made


def fill_pool(machine, clients=20):
    """Use every connection that the pool may have; returns how many there are. All are idle by then."""
    with Crowd(machine.sockets / "l1", clients) as crowd:
        crowd.is_served(each=3)
    eventually(lambda: machine.status()["connections"].get("Idle") == connections(machine))
    return connections(machine)


def longest_run(moments, gap=0.5):
    """Seconds of the longest row of moments in which none is later than `gap` after the one before."""
    longest, first, last = 0.0, None, None
    for moment in moments:
        if last is None or moment - last > gap:
            first = moment
        last = moment
        longest = max(longest, last - first)
    return longest


def asked_before(crowd, moment):
    """How many requests that have been under way since before that moment."""
    return sum(asked < moment for asked in crowd.under_way.copy().values())
