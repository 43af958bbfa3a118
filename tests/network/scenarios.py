"""What a wide network does to lonc: each function is a scenario and returns its figures.

A scenario takes a WideMachine and starts what it needs on it. `delay_ms` is that of one direction: a
round trip takes twice as long. `settings` are lonc's; those that this lonc does not have are left out
(see WideMachine), so that any version can be measured. `watch` limits the seconds of waiting; a figure
is None if its event did not happen in that time. Nothing about lonc is asserted here.
"""

import os
import statistics
import time

from network.critics import DELAYED, Critics
from network.crowd import LOST, RIGHT, WRONG, Crowd
from network.emulator import REMOTE_ADDRESS6
from network.link import BACK, OUT
from network.wide_machine import haproxy_is_here
from support.machine import eventually

from lonc.spool import spool

IN_TIME = 26.0  # loncPeerTimeout + loncConnectTimeout + 1, at their defaults
READY, DEAD = "ready", "DEAD"


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
    """Use every connection that the pool may have; returns how many there are."""
    with Crowd(machine.sockets / "l1", clients) as crowd:
        crowd.is_served(each=3)
    return connections(machine)


# What vanishes.


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
            "requests that were told con_lost": len(lost),
            "lines in the log": len(machine.log().splitlines()) - lines,
        }
    )


def vanish_idle(machine, watch=90.0, **settings):
    """The peer vanishes while the pool is idle, and nobody asks."""
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
    """Of each client the request that ended first, if one has."""
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
    """The other machine loses its power while the pool is idle, and is back before anybody asks."""
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
    """The same, and what is asked for must not get lost."""
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
    """lond's machine answers, lond does not; a client that comes `after` so many seconds asks; then lond
    goes on."""
    lond = start(machine, **settings)
    with Crowd(machine.sockets / "l1", clients) as crowd:
        crowd.is_served()
        lond.stop()
        stopped = time.monotonic()
        dead = when(lambda: machine.state() == DEAD, after)
        time.sleep(max(0.0, stopped + after - time.monotonic()))
        with Crowd(machine.sockets / "l1", 1) as late:
            told = when(lambda: late.requests, watch, every=0.001)
            outcome = late.requests[0].outcome if late.requests else None
            lond.go_on()
            on = time.monotonic()
            first = crowd.next_right(on, 30)
        in_flight = [each for each in crowd.since(on, RIGHT) if each.asked < stopped + 0.1]
    return rounded(
        {
            "DEAD after, s": dead,
            "one that came later: told after, ms": told and 1000 * told,
            "and what": outcome,
            "first reply after lond went on, s": first and first - on,
            "answered then, of what was in flight": len(in_flight),
        }
    )


# What is slow, and what comes in another order.


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
        time.sleep(10 * scale)
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


def storm(machine, name, scale=1.0, clients=20, in_time=IN_TIME, delay_ms=20.0, size=300, **settings):
    """One of STORMS, `scale` times as long, over clients that check each reply, and others that put what
    must not get lost; then all that was promised has `in_time` and a minute to arrive."""
    lond = start(machine, delay_ms=delay_ms, loncDelayedInterval=1, **settings)
    critics = Critics(machine.settings(), rate=10, users=5)
    with Crowd(machine.sockets / "l1", clients, size=size) as crowd:
        crowd.is_served()
        with critics:
            STORMS[name](machine.wan, scale)
            machine.wan.calm()
            machine.wan.change(delay_ms=delay_ms)
            over = time.monotonic()
            first = crowd.next_right(over, in_time)
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
    }
    return rounded(figures)


def asked_before(crowd, moment):
    """How many requests that have been under way since before that moment."""
    return sum(asked < moment for asked in crowd.under_way.copy().values())


def poor_path(machine, seconds=60.0, clients=10, size=300, conditions=None, **settings):
    """A path that is slow and loses, and a lond that is well: how many requests are told con_lost?"""
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
    """The same with an idle pool: how many connections does lonc take for dead?"""
    start(machine, **settings)
    filled = fill_pool(machine)
    machine.wan.change(**(conditions or {"delay_ms": 150, "loss": 0.15}))
    time.sleep(seconds)
    return {"connections": filled, "closed": filled - connections(machine)}


# Delayed transactions.


def delayed_with_busy_pool(machine, files=10, clients=30, delay_ms=20.0, watch=45.0, **settings):
    """Live clients keep the pool busy; files are saved meanwhile."""
    lond = start(machine, delay_ms=delay_ms, **settings)
    with Crowd(machine.sockets / "l1", clients) as crowd:
        crowd.is_served()
        begun = time.monotonic()
        time.sleep(5)
        before = [each.seconds for each in crowd.since(begun)]
        saved = time.monotonic()
        for number in range(files):
            spool.save(machine.settings(), b"put:dom:user:file:%d" % number, "l1")
        machine.lonc.send_signal(10)  # USR1: look at delayed transactions, too
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
    """lond is killed and started again after so long; `critical` is asked for all the time. When is the
    last one saved?"""
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
        }
    )


# Names.


def first_nameserver_dead(machine, watch=60.0, **settings):
    """The first of two nameservers takes queries and never answers."""
    machine.by_name([machine.address(1)], silent_first=True)
    start(machine, **settings)
    first = when(lambda: machine.ask(b"echo") == b"echo", watch)
    given_up = machine.log().count("cannot find its address")
    return rounded({"served after, s": first, "lookups given up": given_up})


def ipv6_black_holed(machine, watch=60.0, **settings):
    """A name with an IPv6 and an IPv4 address, and IPv6 packets are dropped."""
    machine.by_name([REMOTE_ADDRESS6, machine.address(1)])
    machine.wan.change(drop_ipv6=True)
    start(machine, loncIdleTimeout=0.3, **settings)
    seconds = []
    for _ in range(3):
        seconds.append(when(lambda: machine.ask(b"echo") == b"echo", watch, every=0.001))
        eventually(lambda: connections(machine) == 0)
    return rounded(
        {"served after the start, s": seconds[0], "with a new connection, s": max(seconds[1:])}, 3
    )


def name_moves(machine, watch=20.0, **settings):
    """A name gets another address, while the old one goes on to answer; a client asks all the time."""
    nameserver = machine.by_name([machine.address(1)])
    start(machine, **settings)
    other = machine.lond(2)
    assert machine.ask(b"put:dom:user:file:1") == b"ok"
    nameserver.addresses = [machine.address(2)]

    def follows():
        machine.ask(b"put:dom:user:file:2")
        return other.carried_out()

    return rounded({"followed after, s": when(follows, watch, every=0.2)})


# What is out of step, and how much gets through.


def unasked_lines(machine, seconds=30.0, every=3.0, clients=30, delay_ms=20.0, **settings):
    """lond says a line that nobody has asked for every so many seconds, on connections that are busy."""
    # The late reply must come while the next request is under way, and not together with its reply.
    unasked = ["--unasked", str(every), "--later", str(max(0.002, delay_ms / 1000))]
    start(machine, delay_ms=delay_ms, options=unasked, **settings)
    with Crowd(machine.sockets / "l1", clients) as crowd:
        crowd.is_served()
        begun = time.monotonic()
        time.sleep(seconds)
        wrong = crowd.since(begun, WRONG)
        answered = crowd.since(begun)
    return rounded(
        {
            "requests": len(answered),
            "wrong replies": len(wrong),
            "con_lost": sum(each.outcome == LOST for each in answered),
            "longest run of wrong replies, s": longest_run([each.ended for each in wrong]),
        }
    )


def longest_run(moments, gap=0.5):
    """Seconds of the longest row of moments in which none is later than `gap` after the one before."""
    longest, first, last = 0.0, None, None
    for moment in moments:
        if last is None or moment - last > gap:
            first = moment
        last = moment
        longest = max(longest, last - first)
    return longest


def throughput(machine, connections=50, delay_ms=50.0, seconds=10.0, rounds=3, **settings):
    """As many clients as connections, over a long way; with HAProxy in turn where it is installed."""
    start(machine, delay_ms=delay_ms, loncMaxConnections=connections, **settings)
    paths = {"lonc": machine.sockets / "l1"}
    if haproxy_is_here():
        paths["HAProxy"] = machine.haproxy()
    rates = {name: [] for name in paths}
    for _ in range(rounds):
        for name, path in paths.items():
            with Crowd(path, connections) as crowd:
                crowd.is_served(each=3)
                begun = time.monotonic()
                time.sleep(seconds)
                rates[name].append(len(crowd.since(begun, RIGHT)) / (time.monotonic() - begun))
    ours, *theirs = (statistics.median(each) for each in rates.values())
    return rounded(
        {
            "requests a second": ours,
            "HAProxy's": theirs[0] if theirs else None,
            "ours / HAProxy's": ours / theirs[0] if theirs else None,
            "ours / the most that is possible": ours / (connections / (2 * delay_ms / 1000)),
        }
    )
