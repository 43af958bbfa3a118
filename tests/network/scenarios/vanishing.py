"""Peers, flows and networks that vanish, and a lond that does not answer."""

import time

from network.crowd import LOST, RIGHT, WRONG, Crowd
from network.scenarios.measuring import asked_before, connections, fill_pool, rounded, start, when
from network.wide_machine import haproxy_is_here
from support.critics import DELAYED, Critics
from support.machine import eventually

DEAD = "DEAD"


def vanish_under_load(machine, clients=50, watch=330.0, **settings):
    """The peer vanishes while all clients wait for replies."""
    start(machine, **settings)
    with Crowd(machine.sockets / "l1", clients) as crowd:
        crowd.is_served()
        lines = len(machine.log().splitlines())
        machine.wan.down()
        gone = time.monotonic()
        dead = when(lambda: machine.state() == DEAD, watch, every=0.1)
        # Those that were in flight, and those that the queue held.
        ended = when(lambda: not asked_before(crowd, gone + 1), watch, every=0.1)
        longest = crowd.longest(gone)
        lost = crowd.since(gone, LOST)
    return rounded(
        {
            "DEAD after, s": dead,
            "longest hang, s": longest,
            "hangs over": ended is not None,
            "requests that ended with con_lost": len(lost),
            "lines in the log": len(machine.log().splitlines()) - lines,
        }
    )


def vanish_idle(machine, watch=90.0, **settings):
    """The peer vanishes while the pool is idle and no client sends a request."""
    start(machine, **settings)
    filled = fill_pool(machine)
    machine.wan.down()
    gone = time.monotonic()
    noticed = when(lambda: connections(machine) < filled, watch, every=0.1)
    dead = None
    if noticed is not None and when(lambda: machine.state() == DEAD, watch, every=0.1) is not None:
        dead = time.monotonic() - gone
    return rounded({"connections": filled, "noticed after, s": noticed, "DEAD after, s": dead})


def firewall_forgets(machine, idle=240.0, requests=10, watch=20.0, **settings):
    """A firewall forgets flows that are idle for so long; then so many clients ask once, all at once."""
    start(machine, **settings)
    filled = fill_pool(machine)
    machine.wan.forget_after(idle)
    time.sleep(idle * 1.25)
    with Crowd(machine.sockets / "l1", requests, pause=watch) as crowd:
        ended = when(lambda: len(first_of_each(crowd)) == requests, watch)
        first = first_of_each(crowd)
        figures = {
            "connections before": filled,
            "requests that failed": requests - sum(each.outcome == RIGHT for each in first),
            "of these without an end": requests - len(first),
            "all have ended after, s": ended,
            "longest, s": crowd.longest(),
        }
    return rounded(figures)


def first_of_each(crowd):
    """Each client's first request, if it has ended."""
    return list({each.client: each for each in reversed(crowd.requests.copy())}.values())


def partition(machine, seconds=60.0, clients=10, watch=90.0, **settings):
    """The network is down for so long while clients ask; when are they served again?"""
    start(machine, **settings)
    with Crowd(machine.sockets / "l1", clients) as crowd:
        crowd.is_served()
        machine.wan.down()
        time.sleep(seconds)
        machine.wan.up()
        over = time.monotonic()
        first = crowd.next_right(over, watch)
        when(lambda: len({each.client for each in crowd.since(over, RIGHT)}) == clients, watch)
        figures = {
            "seconds of partition": seconds,
            "first reply after, s": first and first - over,
            "longest request, s": crowd.longest(),
            "wrong replies": crowd.count(WRONG),
        }
    return rounded(figures)


def haproxy_partition(machine, seconds=60.0, clients=10, watch=90.0):
    """The same with HAProxy, which has `tcp-ut 10s`; None where it is not installed."""
    if not haproxy_is_here():
        return None
    machine.wan.change(delay_ms=10)
    machine.lond()
    with Crowd(machine.haproxy(user_timeout="10s"), clients) as crowd:
        crowd.is_served()
        machine.wan.down()
        time.sleep(seconds)
        machine.wan.up()
        over = time.monotonic()
        first = crowd.next_right(over, watch)
    return rounded({"first reply after, s": first and first - over})


def peer_crashes(machine, idle=5.0, requests=10, **settings):
    """The other machine loses its power while the pool is idle, and is back before the next request."""
    lond = start(machine, **settings)
    filled = fill_pool(machine)
    time.sleep(idle)
    machine.wan.down()
    lond.kill()
    machine.wan.up()
    machine.lond()
    replies = [machine.ask(b"echo:%d" % number) for number in range(requests)]
    return {
        "connections before": filled,
        "con_lost": replies.count(b"con_lost"),
        "right": sum(reply == b"echo:%d" % number for number, reply in enumerate(replies)),
    }


def critical_after_a_crash(machine, idle=5.0, requests=5, **settings):
    """The same, with critical requests."""
    lond = start(machine, **settings)
    fill_pool(machine)
    time.sleep(idle)
    machine.wan.down()
    lond.kill()
    machine.wan.up()
    machine.lond()
    with Critics(machine.settings(), rate=10, threads=1) as critics:
        eventually(lambda: len(critics.done) >= requests, 60)
    answers = [each.answer for each in critics.done[:requests]]
    return {"requests": requests, "con_delayed": answers.count(DELAYED)}


def stopped_lond(machine, after=25.0, clients=10, watch=30.0, **settings):
    """lond is stopped while its kernel acknowledges; another client asks `after` seconds later.

    After its answer, or after `watch` seconds, lond goes on.
    """
    lond = start(machine, **settings)
    with Crowd(machine.sockets / "l1", clients) as crowd:
        crowd.is_served()
        lond.stop()
        stopped = time.monotonic()
        dead = when(lambda: machine.state() == DEAD, after)
        time.sleep(max(0.0, stopped + after - time.monotonic()))
        with Crowd(machine.sockets / "l1", 1) as late:
            known = when(lambda: late.requests, watch, every=0.001)
            outcome = late.requests[0].outcome if late.requests else None
            lond.go_on()
            on = time.monotonic()
            first = crowd.next_right(on, 30)
        in_flight = [each for each in crowd.since(on, RIGHT) if each.asked < stopped + 0.1]
    return rounded(
        {
            "DEAD after, s": dead,
            "one that came later: con_lost after, ms": known and 1000 * known,
            "and what": outcome,
            "first reply after lond went on, s": first and first - on,
            "answered then, of what was in flight": len(in_flight),
        }
    )
