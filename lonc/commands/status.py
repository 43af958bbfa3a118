"""The commands that show the state of the daemon and its hosts."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import sys
from pathlib import Path

from lonc.commands.loading import tolerant
from lonc.commands.output import print_error, say
from lonc.configuration import Settings, did_you_mean
from lonc.errors import DONE, LoncError, NotRunning, UsageError
from lonc.hosts import find_host, read_tables
from lonc.lifecycle import instance
from lonc.lifecycle.control_client import ask_report
from lonc.lifecycle.other_lonc import other_lonc
from lonc.monitoring import text
from lonc.monitoring.health import DEFAULT, Health, Level, Threshold, Thresholds
from lonc.monitoring.status import NOT_ANSWERING, HostStatus, Report
from lonc.runtime.directory import Directory
from lonc.runtime.trust import changeable_by_others

# The exit statuses that the LSB defines for `status`.
STATUSES = {
    instance.State.RUNNING: 0,
    instance.State.DEAD: 1,
    instance.State.NOT_RUNNING: 3,
    instance.State.UNKNOWN: 4,
}


def status(options: argparse.Namespace) -> int:
    settings = tolerant(options)
    found = instance.settled(settings)
    if found.state is instance.State.RUNNING:
        try:
            report = ask_report(settings)
        except LoncError as error:
            say(f"lonc is running, pid {found.pid}")
            print_error(error)
            return STATUSES[instance.State.UNKNOWN]
        _show(report, options, settings)
    elif found.state is instance.State.UNKNOWN:
        print_error(f"cannot tell whether it runs: {found.why}")
    else:
        other = other_lonc(settings, read_tables(settings).hosts)
        left = found.state is instance.State.DEAD and other is None
        say(f"lonc is not running{f'; it left {settings.pid_file} behind' * left}")
        if other is not None:
            say(f"another lonc serves: {other}")
    return STATUSES[found.state]


def _show(report: Report, options: argparse.Namespace, settings: Settings) -> None:
    if options.html is not None:
        _write_page(report, options.html)
    elif options.json:
        sys.stdout.write(report.to_line().decode())
    elif options.host is not None:
        host = _host(report, options.host, settings)
        sys.stdout.write(text.host_to_text(host, Health(report)))
    else:
        terminal = sys.stdout.isatty()
        colour = terminal and not os.environ.get("NO_COLOR")
        width = shutil.get_terminal_size((100, 0)).columns if terminal else None
        sys.stdout.write(text.to_text(report, colour, width))


def _write_page(report: Report, place: Path) -> None:
    """Write the status page; as root, as the owner of the directory, who may have made links there.

    Raises LoncError.
    """
    from lonc.lifecycle.privileges import answered_as, owner_of
    from lonc.monitoring import html

    contents = html.files(report)
    try:
        with Directory(place) as directory:
            owner = owner_of(directory.fstat(), place)
            if os.geteuid() != 0:
                html.write(contents, directory)
                return
            trusted = {0} if owner is None else {0, owner.uid}
            if (way := changeable_by_others(place, trusted)) is not None:
                raise LoncError(f"root does not write to {place}, which others can change: {way}")

            def write() -> list[str]:
                try:
                    html.write(contents, directory)
                except LoncError as error:
                    return [str(error)]
                return []

            for sentence in answered_as(owner, write):
                raise LoncError(sentence)
    except OSError as error:
        raise LoncError(f"cannot write {place}: {error.strerror}") from error


def _host(report: Report, named: str, settings: Settings) -> HostStatus:
    """The status of the host `named`. Raises UsageError."""
    hosts = {host.host: host for host in report.hosts}
    if named in hosts:
        return hosts[named]
    table = read_tables(settings).hosts
    with contextlib.suppress(UsageError, KeyError):
        return hosts[
            find_host(table, named, settings.hosts_file).name
        ]  # `named` may be an id, or an alias of the host's name
    raise UsageError(f"{named} is not served{did_you_mean(named, hosts)}")


def threshold(text: str) -> Threshold:
    """Parse WARNING or WARNING,CRITICAL. Raises ArgumentTypeError."""
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 2 or any(math.isnan(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not one or two numbers, as in 5 or 5,30")
    threshold = Threshold(*numbers)
    if threshold.critical < threshold.warning:
        why = f"critical, {threshold.critical:g}, is less than warning, {threshold.warning:g}"
        raise argparse.ArgumentTypeError(why)
    return threshold


def check_health(options: argparse.Namespace) -> int:
    """Print one line as the rules for Nagios plugins say; the exit status is the level."""
    try:
        report = current(options)
    except NotRunning as error:
        say(f"LONC CRITICAL - {error}")
        return Level.CRITICAL
    except (LoncError, OSError) as error:
        say(f"LONC UNKNOWN - {' '.join(str(error).split())}")
        return Level.UNKNOWN
    limits = Thresholds(**{name: getattr(options, name) for name in vars(DEFAULT)})
    health = Health(report, limits)
    sentence = health.sentence.replace("|", "/")  # performance data begins at the first |
    say(f"LONC {health.level.name} - {sentence} | {' '.join(_performance(report, limits))}")
    return health.level


def current(options: argparse.Namespace) -> Report:
    """The daemon's report. Raises NotRunning, LoncError if the daemon does not answer."""
    settings = tolerant(options, print_faults=False)
    found = instance.find(settings)
    if found.state in (instance.State.NOT_RUNNING, instance.State.DEAD):
        raise NotRunning("lonc is not running")
    if found.state is not instance.State.RUNNING:
        raise LoncError(found.why)
    return ask_report(settings)


def _performance(report: Report, limits: Thresholds) -> list[str]:
    """Performance data of Nagios: name=value, unit, warning, critical, minimum."""
    hosts = report.hosts

    def data(name: str, value: float, unit: str = "", limit: Threshold | None = None) -> str:
        bounds = (limit.warning, limit.critical) if limit is not None else ()
        texts = ["" if bound == float("inf") else f"{bound:g}" for bound in bounds] or ["", ""]
        return f"{name}={value:.6g}{unit};{';'.join(texts)};0"

    return [
        data("hosts", len(hosts)),
        data("dead", sum(host.state == "DEAD" for host in hosts), limit=limits.dead),
        data("hung", sum(host.state == NOT_ANSWERING for host in hosts)),
        data("clients", report.total("clients")),
        data("waiting", report.total("waiting")),
        data("oldest_wait", report.oldest_wait, "s", limits.wait),
        data("oldest_in_flight", report.oldest_in_flight, "s", limits.reply),
        data("busy", max(((h.saturated_last_minute or 0) for h in hosts), default=0), "s", limits.busy),
        data(
            "p99",
            max(((h.last_minute or {}).get("p99", 0) for h in hosts), default=0),
            "s",
            limits.latency,
        ),
        data("delayed", report.total("delayed"), limit=limits.delayed),
        data("out_of_step", report.total("out_of_step")),
        data("wrong_keys", report.total("wrong_keys")),
        data("insecure", report.total("fallbacks_last_hour")),
        data("done", report.total("done"), "c"),
        data("failed", report.total("failed"), "c"),
    ]


def top(options: argparse.Namespace) -> int:
    try:
        from lonc.monitoring.top import Top
    except ImportError:
        raise LoncError("top needs the library rich: pip install rich") from None
    Top(lambda: current(options), options.every).run()
    return DONE


def exporter(options: argparse.Namespace) -> int:
    try:
        from lonc.monitoring import prometheus
    except ImportError:
        raise LoncError(
            "exporter needs the library prometheus_client: pip install prometheus_client"
        ) from None
    prometheus.serve(lambda: current(options), options.listen)
    return DONE
