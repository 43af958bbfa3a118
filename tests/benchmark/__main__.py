"""python -m tests.benchmark [GROUP …] [--rounds N] [--seconds S] [--json FILE]

Measures the cost of lonc and of the programs it is compared with, in turn in each round; the figure of a
case is the median of its rounds. Needs two cores: the subject runs on the first, clients and lond on the
second.
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import statistics
import sys
from typing import Any

from . import calls, cases, hosts
from .cases import MICRO, Case
from .subjects import OWN_CORE, HAProxy, haproxy_is_here, on_cores

GROUPS = {
    "transaction": cases.TRANSACTION,
    "cipher": cases.CIPHER,
    "lines": cases.LINES,
    "growth": cases.GROWTH,
}
OTHERS = {"calls": calls.run, "hosts": hosts.run}


def run_case(case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        running: dict[str, Any] = {
            name: stack.enter_context(side.running()) for name, side in case.sides.items()
        }
        for side in running.values():
            side.measure(seconds / 5)  # warm-up of pools and caches
        measured = [
            {name: side.measure(seconds) for name, side in running.items()} for _ in range(rounds)
        ]
    figures = [case.figure({name: each.cpu for name, each in turn.items()}) for turn in measured]
    return {
        "case": case.name,
        "of": " / ".join(case.sides),
        "figure": statistics.median(figures),
        "least": min(figures),
        "most": max(figures),
        "goal": case.goal,
        "sides": {
            name: {
                "cpu_us": statistics.median(turn[name].cpu for turn in measured) * MICRO,
                "rate": statistics.median(turn[name].rate for turn in measured),
                "p50_ms": statistics.median(turn[name].p50 for turn in measured) * 1000,
                "p99_ms": statistics.median(turn[name].p99 for turn in measured) * 1000,
            }
            for name in case.sides
        },
    }


def show(result: dict[str, Any]) -> None:
    goal = "" if result["goal"] is None else f"<= {result['goal']:g}"
    spread = f"{result['least']:.2f}–{result['most']:.2f}" if "least" in result else ""
    figure = f"{result['figure']:8.3g}" if "of" not in result else f"{result['figure']:8.2f}"
    print(f"{result['case']:38} {figure} {spread:12} {goal:8}", end="")
    for name, side in result.get("sides", {}).items():
        print(
            f"\n    {name:12} {side['cpu_us']:10.1f} µs {side['rate']:9.0f}/s"
            f"  p50 {side['p50_ms']:8.3f} ms  p99 {side['p99_ms']:8.3f} ms",
            end="",
        )
    if "note" in result:
        print(f"\n    {result['note']}", end="")
    print(flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark", description=__doc__)
    names = [*GROUPS, *OTHERS]
    parser.add_argument("group", nargs="*", help=f"some of {', '.join(names)}; all without")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="per side and round")
    parser.add_argument("--json", metavar="FILE", help="write the results to FILE, as JSON")
    options = parser.parse_args()
    if unknown := set(options.group) - set(names):
        parser.error(f"there is no {', '.join(unknown)}: only {', '.join(names)}")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if os.cpu_count() < 2:
        print("only one core: the measuring process slows down the subject", file=sys.stderr)
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda number, _: sys.exit(128 + number))  # so that the cleanup runs
    results = []
    with on_cores(OWN_CORE):
        for group in options.group or names:
            print(f"\n{group}")
            if group in OTHERS:
                found = OTHERS[group](options.rounds)
            else:
                found = (
                    run_case(case, options.rounds, options.seconds)
                    for case in GROUPS[group]
                    if haproxy_is_here() or HAProxy.name not in case.sides
                )
            for result in found:
                show(result)
                results.append({"group": group, **result})
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
