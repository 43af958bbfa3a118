"""How much gets through, how large a pool must be, and replies that are out of step."""

import statistics
import time
from pathlib import Path

from network.crowd import LOST, RIGHT, WRONG, Crowd
from network.link import OUT
from network.scenarios.measuring import longest_run, rounded, start, when
from network.wide_machine import haproxy_is_here


def unasked_lines(machine, seconds=30.0, every=3.0, clients=30, delay_ms=20.0, **settings):
    """lond sends an unsolicited line every so many seconds, on busy connections."""
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


def capacity(machine, clients, delay_ms, connections=None, seconds=5.0, **settings):
    """So many clients that ask without a pause, on a pool of that size (None: the default)."""
    if connections is not None:
        settings["loncMaxConnections"] = connections
    start(machine, delay_ms=delay_ms, **settings)
    with Crowd(machine.sockets / "l1", clients) as crowd:
        crowd.is_served(each=2)
        begun = time.monotonic()
        time.sleep(seconds)
        answered = crowd.since(begun, RIGHT)
        per_second = len(answered) / (time.monotonic() - begun)
    p50 = statistics.median(each.seconds for each in answered)
    return rounded({"requests a second": per_second, "p50 of a request, ms": 1000 * p50})


def mtu_black_hole(machine, probing, size=5000, watch=30.0, **settings):
    """Packets of more than 1200 bytes are dropped on their way to lond, and nothing says so.

    `probing` is lonc's kernel's net.ipv4.tcp_mtu_probing.
    """
    start(machine, **settings)
    with machine.wan.local.entered():
        Path("/proc/sys/net/ipv4/tcp_mtu_probing").write_text(str(probing))
    machine.wan.change(OUT, mtu=1200)
    with Crowd(machine.sockets / "l1", 1, size=size) as crowd:
        served = when(lambda: crowd.requests, watch)
    return rounded({"answered after, s": served})
