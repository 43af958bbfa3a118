"""Delayed transactions while others keep the connections busy."""

import statistics
import time

from network.crowd import Crowd
from network.scenarios.measuring import left_in, rounded, start, when
from support.critics import DELAYED, Critics
from support.machine import eventually

from lonc.spool import spool


def delayed_with_busy_pool(machine, files=10, clients=30, delay_ms=20.0, watch=45.0, **settings):
    """Live clients keep the pool busy; files are saved meanwhile."""
    lond = start(machine, delay_ms=delay_ms, **{"loncDelayedInterval": 1, **settings})
    with Crowd(machine.sockets / "l1", clients) as crowd:
        crowd.is_served()
        begun = time.monotonic()
        time.sleep(5)
        before = [each.seconds for each in crowd.since(begun)]
        saved = time.monotonic()
        for number in range(files):
            spool.save(machine.settings(), b"put:dom:user:file:%d" % number, "l1")
        carried_out = when(lambda: len(lond.carried_out()) >= files, watch)
        meanwhile = [each.seconds for each in crowd.since(saved)]
    p50 = statistics.median(before), statistics.median(meanwhile)
    return rounded(
        {
            "carried out": len(lond.carried_out()),
            "all of them after, s": carried_out,
            "live p50 before, ms": 1000 * p50[0],
            "live p50 meanwhile / before": p50[1] / p50[0],
        }
    )


def lond_away_for_a_moment(machine, rate=20.0, away=1.0, delay_ms=0.0, watch=15.0, **settings):
    """lond is killed, and started again after `away` seconds, while critical requests go on.

    When is the last of them saved, instead of sent?
    """
    lond = start(machine, delay_ms=delay_ms, **settings)
    with Critics(machine.settings(), rate, users=5, threads=max(1, min(4, int(rate)))) as critics:
        eventually(lambda: len(critics.done) > 5)
        lond.kill()
        time.sleep(away)
        lond = machine.lond()
        back = time.monotonic()
        time.sleep(watch)
        delayed = critics.since(back, DELAYED)
        answered = critics.since(back)
    when(lambda: left_in(machine) == [], 60)
    return rounded(
        {
            "critical a second": rate,
            "saved since lond is back": f"{len(delayed)} of {len(answered)}",
            "the last of them after, s": max((each.ended - back for each in delayed), default=0.0),
            "watched, s": watch,
            "lost": len(critics.lost_from(lond.carried_out())),
            "out of a user's order": critics.out_of_order(lond.carried_out()),
        }
    )


def critical_at_a_distance(machine, rate=20.0, users=40, delay_ms=50.0, files=5, watch=30.0, **settings):
    """Files of some users are left over while many users' critical requests go on."""
    lond = start(machine, delay_ms=delay_ms, lond=False, **settings)
    for number in range(files):
        spool.save(machine.settings(), b"put:dom:left%d:file:1" % number, "l1")
    lond = machine.lond()
    with Critics(machine.settings(), rate, users=users, threads=int(rate)) as critics:
        begun = time.monotonic()
        gone = when(lambda: sum(b":left" in each for each in lond.carried_out()) == files, watch)
        time.sleep(max(0.0, begun + watch - time.monotonic()))
        delayed, answered = critics.since(begun, DELAYED), critics.since(begun)
        waiting = len(left_in(machine))
    when(lambda: left_in(machine) == [], 60)
    return rounded(
        {
            "files carried out after, s": gone,
            "saved": f"{len(delayed)} of {len(answered)}",
            "the last of them after, s": max((each.ended - begun for each in delayed), default=0.0),
            "watched, s": watch,
            "files that wait at the end": waiting,
            "lost": len(critics.lost_from(lond.carried_out())),
            "out of a user's order": critics.out_of_order(lond.carried_out()),
        }
    )


def backlog_under_critical(
    machine, files, rate=20.0, users=40, delay_ms=50.0, watch=60.0, quiet=5.0, **settings
):
    """A backlog of files of the same users whose critical requests go on: when are all direct again?"""
    lond = start(machine, delay_ms=delay_ms, lond=False, **settings)
    for number in range(files):
        spool.save(machine.settings(), b"put:dom:user%d:file:old%d" % (number % users, number), "l1")
    lond = machine.lond()
    eventually(lambda: machine.status()["state"] == "ready", 20)
    with Critics(machine.settings(), rate, users=users, threads=int(rate)) as critics:
        begun = time.monotonic()

        def drained():
            now = time.monotonic()
            return now - begun > quiet and not critics.since(now - quiet, DELAYED)

        when(drained, watch)
        delayed, answered = critics.since(begun, DELAYED), critics.since(begun)
        waiting = len(left_in(machine))
    when(lambda: left_in(machine) == [], 60)
    return rounded(
        {
            "left over": files,
            "saved": f"{len(delayed)} of {len(answered)}",
            "the last of them after, s": max((each.ended - begun for each in delayed), default=0.0),
            "files that wait at the end": waiting,
            "lost": len(critics.lost_from(lond.carried_out())),
            "out of a user's order": critics.out_of_order(lond.carried_out()),
        }
    )
