"""Networks that lose, delay, reorder and fail for a while, with a count of what goes wrong in them."""

import time

from network.crowd import LOST, WRONG, Crowd
from network.link import BACK, OUT
from network.scenarios.measuring import (
    asked_before,
    connections,
    fill_pool,
    left_in,
    rounded,
    start,
    when,
)
from support.critics import DELAYED, Critics

IN_TIME = 26.0  # seconds: loncPeerTimeout + loncConnectTimeout + 1, at their defaults
TWICE = 12.0  # seconds that a request has waited in the first outage of two
CALM = 5.0  # seconds before and after a storm


def _partition_of(seconds):
    def storm(wan, scale):
        wan.down()
        time.sleep(seconds * scale)
        wan.up()

    return storm


def _flapping(wan, scale):
    for _ in range(max(3, int(20 * scale))):
        wan.down()
        time.sleep(0.3)
        wan.up()
        time.sleep(0.3)


def _asymmetric(wan, scale):
    for direction in (BACK, OUT):
        wan.down(direction)
        time.sleep((TWICE - 2) * scale)
        wan.up(direction)
        time.sleep(2 * scale)


def _under(**conditions):
    def storm(wan, scale):
        wan.change(**conditions)
        time.sleep(20 * scale)

    return storm


STORMS = {
    "partition of 1 s": _partition_of(1),
    "partition of 10 s": _partition_of(10),
    "partition of 60 s": _partition_of(60),
    "flapping": _flapping,
    "asymmetric": _asymmetric,
    "5 % loss": _under(loss=0.05),
    "reordering": _under(reorder=0.2, reorder_ms=30, jitter_ms=5),
    "1 Mbit/s": _under(rate=1e6, queue=30_000),
}


def storm(machine, name, scale=1.0, clients=20, in_time=IN_TIME, delay_ms=20.0, size=2000, **settings):
    """One of STORMS, `scale` times as long, while clients check every reply and others ask critically.

    After it every request has `in_time` seconds to end, and every saved one a minute more.
    """
    if name == "asymmetric":
        in_time += TWICE * scale
    lond = start(machine, delay_ms=delay_ms, **{"loncDelayedInterval": 1, **settings})
    critics = Critics(machine.settings(), rate=10, users=5)
    with Crowd(machine.sockets / "l1", clients, size=size) as crowd:
        crowd.is_served()
        with critics:
            time.sleep(CALM * scale)
            STORMS[name](machine.wan, scale)
            machine.wan.calm()
            machine.wan.change(delay_ms=delay_ms)
            over = time.monotonic()
            first = crowd.next_right(over, in_time)
            time.sleep(CALM * scale)
            when(lambda: not asked_before(crowd, over), in_time)
            hanging = asked_before(crowd, over)
            critics.end()
        requests = list(crowd.requests)
    when(lambda: left_in(machine) == [], in_time + 60, every=0.1)
    figures = {
        "requests": len(requests),
        "wrong replies": sum(each.outcome == WRONG for each in requests),
        "con_lost": sum(each.outcome == LOST for each in requests),
        "without an end in time": hanging + sum(each.seconds > in_time for each in requests),
        "longest request, s": max((each.seconds for each in requests), default=None),
        "first reply after it, s": first and first - over,
        "critical": len(critics.done),
        "con_delayed": len(critics.since(0, DELAYED)),
        "of these lost": len(critics.lost_from(lond.carried_out())),
        "out of a user's order": critics.out_of_order(lond.carried_out()),
    }
    return rounded(figures)


def poor_path(machine, seconds=60.0, clients=10, size=300, conditions=None, **settings):
    """A slow path with loss, and a lond that serves: how many requests end with con_lost?"""
    start(machine, **settings)
    with Crowd(machine.sockets / "l1", clients, size=size) as crowd:
        crowd.is_served()
        machine.wan.change(**(conditions or {"delay_ms": 150, "loss": 0.15}))
        time.sleep(seconds)
        figures = {
            "requests": len(crowd.requests),
            "con_lost": crowd.count(LOST),
            "wrong replies": crowd.count(WRONG),
            "longest request, s": crowd.longest(),
        }
    return rounded(figures)


def poor_path_idle(machine, seconds=120.0, conditions=None, **settings):
    """The same with an idle pool: how many connections does lonc close?"""
    start(machine, **settings)
    filled = fill_pool(machine)
    machine.wan.change(**(conditions or {"delay_ms": 150, "loss": 0.15}))
    time.sleep(seconds)
    return {"connections": filled, "closed": filled - connections(machine)}
