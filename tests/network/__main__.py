"""Runs all scenarios at length and prints their figures as tables in Markdown.

python -m tests.network [--only WORDS] [--jobs N] [--minutes M] [--sizing]

Needs root. HAProxy is measured beside lonc where it is installed.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from network import scenarios
from network.wan import Wan, why_not
from network.wide_machine import WideMachine

from lonc import __version__


class Row(NamedTuple):
    """One scenario of the table. `alone`: it is measured while no other one runs."""

    title: str
    goal: str
    scenario: Any
    alone: bool = False


KEEPALIVE = 2  # seconds, where it is scaled
ROUND_TRIPS = 20, 100, 300  # ms
POOLS = 5, 10, 20, 50

WHOLE = [
    Row(
        "peer vanishes under 50 clients, defaults",
        "DEAD after ≤ 32 s; longest hang ≤ 27 s",
        scenarios.vanish_under_load,
    ),
    Row("idle pool, peer vanishes", "noticed after ≤ 80 s", scenarios.vanish_idle),
    Row(
        "firewall forgets after 240 s, default loncKeepalive",
        "0 requests fail",
        partial(scenarios.firewall_forgets, watch=330),
    ),
    Row(
        "the same, scaled: after 8 s, loncKeepalive 2",
        "0 requests fail",
        partial(scenarios.firewall_forgets, idle=4 * KEEPALIVE, loncKeepalive=KEEPALIVE, watch=330),
    ),
    Row("partition of 60 s under 10 clients", "first reply after ≤ 6 s", scenarios.partition),
    Row("the same, HAProxy with tcp-ut 10s", "(beside it)", scenarios.haproxy_partition),
    Row("the other machine crashes and is back, idle pool", "con_lost ≤ 1", scenarios.peer_crashes),
    Row("the same, with critical", "con_delayed 0", scenarios.critical_after_a_crash),
    Row(
        "stopped lond",
        "25 s later: con_lost within 20 ms",
        partial(scenarios.stopped_lond, watch=70),
    ),
    *(
        Row(
            f"{name} under 20 clients",
            "wrong 0; without an end in time 0; con_delayed lost 0",
            partial(scenarios.storm, name=name),
        )
        for name in scenarios.STORMS
    ),
    Row("300 ms and 15 % loss, a lond that is well", "con_lost 0", scenarios.poor_path),
    Row(
        "128 kbit/s, a lond that is well",
        "con_lost 0",
        partial(
            scenarios.poor_path,
            conditions={"delay_ms": 20, "rate": 128_000, "queue": 30_000},
            size=3000,
        ),
    ),
    Row("300 ms and 15 % loss, idle pool", "closed 0", scenarios.poor_path_idle),
    Row(
        "30 live clients keep the pool busy at 40 ms: 10 delayed files",
        "≤ 5 s; live p50 ≤ 1.3 times",
        scenarios.delayed_with_busy_pool,
    ),
    *(
        Row(
            f"lond away for a second, {rate} critical a second",
            "the last one saved ≤ 3 s after it is back",
            partial(scenarios.lond_away_for_a_moment, rate=rate),
        )
        for rate in (20, 1)
    ),
    Row(
        "20 critical a second of 40 users at 100 ms, 5 files left over",
        "the last one saved ≤ 10 s after the files are gone",
        scenarios.critical_at_a_distance,
    ),
    *(
        Row(
            f"20 critical a second of 40 users at 100 ms, {files} files of theirs left over",
            "all are direct again",
            partial(scenarios.backlog_under_critical, files=files),
        )
        for files in (5, 35, 200)
    ),
    Row("first nameserver dead", "served within 6 s", scenarios.first_nameserver_dead),
    Row(
        "AAAA + A, IPv6 black-holed",
        "new connection ≤ 0.4 s",
        scenarios.ipv6_black_holed,
    ),
    Row(
        "a name gets another address, loncMaxLifetime 3",
        "followed within 4 s",
        partial(scenarios.name_moves, loncMaxLifetime=3),
    ),
    Row(
        "lond says a line unasked every 3 s on busy connections",
        "longest run of wrong replies ≤ 1.1 s",
        scenarios.unasked_lines,
    ),
    *(
        Row(
            f"an MTU black hole, tcp_mtu_probing {probing}: a request of 5000 bytes",
            "",
            partial(scenarios.mtu_black_hole, probing=probing),
        )
        for probing in (0, 1)
    ),
    Row(
        "throughput with 50 connections at 100 ms",
        "ours / HAProxy's ≥ 0.95",
        partial(scenarios.throughput, seconds=20),
        alone=True,
    ),
]


def on_a_wide_machine(scenario, **options):
    """The figures of a scenario on a network and a machine of its own."""
    with tempfile.TemporaryDirectory(prefix="lonc-network-") as directory, Wan() as wan:
        machine = WideMachine(Path(directory), wan)
        try:
            return scenario(machine, **options)
        except BaseException:
            if machine.log_file.exists():
                print(machine.log_file.read_text()[-20_000:], file=sys.stderr)
            raise
        finally:
            machine.end()


def measured(row):
    """The figures in words."""
    begun = time.monotonic()
    try:
        figures = on_a_wide_machine(row.scenario)
    except Exception as error:
        figures = {"not measured": repr(error)}
    if figures is None:
        figures = {"not measured": "HAProxy is not installed"}
    print(f"{row.title}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return "; ".join(f"{name} **{'–' if value is None else value}**" for name, value in figures.items())


def sizing():
    """Prints what a pool of each size carries at each round trip, with twice as many clients."""
    print("| loncMaxConnections | " + " | ".join(f"{each} ms" for each in ROUND_TRIPS) + " |")
    print("|---" * (1 + len(ROUND_TRIPS)) + "|")
    for size in POOLS:
        cells = [str(size)]
        for each in ROUND_TRIPS:
            scenario = partial(scenarios.capacity, clients=2 * size, delay_ms=each / 2, connections=size)
            figures = on_a_wide_machine(scenario)
            cells.append(f"{figures['requests a second']:.0f}/s")
        print(f"| {' | '.join(cells)} |", flush=True)


def storms(minutes, seed):
    """Run storms of random kind and length for so many minutes; returns the sums of their figures."""
    rng = random.Random(seed)
    over = time.monotonic() + 60 * minutes
    sums = {}
    while time.monotonic() < over:
        name, scale = rng.choice(list(scenarios.STORMS)), rng.uniform(0.1, 1.5)
        figures = on_a_wide_machine(scenarios.storm, name=name, scale=scale)
        print(name, round(scale, 2), figures, file=sys.stderr, flush=True)
        for what, figure in figures.items():
            if isinstance(figure, int):
                sums[what] = sums.get(what, 0) + figure
    return sums


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="rows whose title contains these words")
    help_ = "how many requests a second a pool carries, instead of all else"
    parser.add_argument("--sizing", action="store_true", help=help_)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="scenarios at a time")
    help_ = "minutes of storms in any order, after the table"
    parser.add_argument("--minutes", type=float, default=0, help=help_)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    if sentence := why_not():
        sys.exit(sentence)
    if options.sizing:
        sizing()
        return
    rows = [row for row in WHOLE if options.only in row.title]
    beside = [row for row in rows if not row.alone]
    with ProcessPoolExecutor(options.jobs) as workers:
        words = dict(zip(beside, workers.map(measured, beside), strict=True))
    words.update((row, measured(row)) for row in rows if row.alone)
    print(f"lonc {__version__}\n\n| | goal | figures |\n|---|---|---|")
    for row in rows:
        print(f"| {row.title} | {row.goal} | {words[row]} |")
    if options.minutes:
        sums = storms(options.minutes, options.seed)
        print(f"\nStorms for {options.minutes:g} minutes, --seed {options.seed}: {sums}")


if __name__ == "__main__":
    main()
