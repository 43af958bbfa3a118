"""The commands that run the daemon, send it orders, and check its files."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from lonc.commands.loading import load, loader, tolerant
from lonc.commands.output import print_error, say
from lonc.configuration import AUTO, CLASSIC, LOCAL, Settings
from lonc.configuration_file import find_configuration
from lonc.errors import DONE, FAILED, CannotStart, Fault, LoncError, Misconfigured, NotRunning
from lonc.hosts import Host
from lonc.lifecycle import instance, privileges
from lonc.lifecycle.control_client import ask_outcome, ask_report
from lonc.lifecycle.stop import stop as stop_daemon
from lonc.monitoring.status import describe_stray
from lonc.parent.spool_scan import count_strays
from lonc.sources import read_sources
from lonc.spool import spool

RELOAD_WITHIN = (
    600.0  # seconds; a reload replaces sixteen children at a time, each within twenty seconds
)

# Modules that only one or two commands need are imported there: the others start faster.


def start(options: argparse.Namespace) -> int:
    from lonc.lifecycle import start

    load_again = loader(options)
    sources = load_again().require_startable(allow_empty=options.empty)
    say(start.start(sources, load_again, options.take_over))
    return DONE


def stop(options: argparse.Namespace) -> int:
    settings = tolerant(options)
    try:
        _, hosts = load(options)
    except Misconfigured:
        hosts = []  # unknown which sockets are lonc's, so none is removed
    say(stop_daemon(settings, hosts))
    return DONE


def restart(options: argparse.Namespace) -> int:
    from lonc.lifecycle import start

    load_again = loader(options)
    sources = load_again()
    sources.require_startable(allow_empty=_serves_no_host(sources.settings))
    for obstacle in start.obstacles(sources, load_again, options.take_over):
        raise CannotStart(f"{obstacle}; nothing is stopped")
    say(stop_daemon(sources.settings, sources.hosts))
    say(start.start(sources, load_again, options.take_over))
    return DONE


def _serves_no_host(settings: Settings) -> bool:
    """Whether a daemon runs that has been started with an empty table."""
    try:
        return not ask_report(settings).hosts
    except LoncError:
        return False


def order(name: str, options: argparse.Namespace) -> int:
    """Send the order `name` to the daemon, which answers with a text and an exit status."""
    settings = tolerant(options, print_faults=False)  # the daemon reports the faults itself
    found = instance.settled(settings)
    if found.state in (instance.State.NOT_RUNNING, instance.State.DEAD):
        raise NotRunning("it is not running")
    if found.state is instance.State.UNKNOWN:
        raise LoncError(found.why)
    host = getattr(options, "host", None)
    order = f"{name} {host}" if host else name
    outcome = ask_outcome(settings, order, RELOAD_WITHIN)
    (print_error if outcome.status else say)(outcome.text)
    return outcome.status


def run(options: argparse.Namespace) -> int:
    from lonc import log
    from lonc.lifecycle import start

    load_again = loader(options)
    sources = load_again().require_startable(allow_empty=options.empty)
    log.open_log(sources.settings.log_level)
    start.run(sources, load_again, options.take_over)
    return DONE


def check(options: argparse.Namespace) -> int:
    from lonc.lifecycle import start

    try:
        file = find_configuration(options.configuration, os.environ)
        sources = read_sources(file).require_no_faults()
    except Misconfigured as error:
        say(error)
        return error.exit_status
    settings, hosts = sources.settings, sources.hosts
    for name, origin in sources.configuration.origins.items():
        if origin.derived:
            say(f"{origin.file}:{origin.line}: {origin.derived}: {name} is {settings.texts()[name]}")
    for warning in _warnings(file, settings, hosts):
        say(warning)
    obstacles = list(start.obstacles(sources, partial(read_sources, file)))
    for obstacle in obstacles:
        say(f"{file}: warning: it will not start: {obstacle}")
    say(f"{file} and {settings.hosts_file}: no faults; hosts: {len(hosts)}")
    return FAILED if obstacles else DONE


def _key_mode_warnings(settings: Settings, hosts: Sequence[Host]) -> Iterator[str]:
    """A sentence for each host or setting with which loncKeyMode cannot work."""
    from lonc.wire.key_exchange import LOCALHOST, is_asked_locally

    elsewhere = [
        host.name
        for host in hosts
        if host.address not in (LOCALHOST, None) and not is_asked_locally(host, settings)
    ]
    if settings.key_mode == LOCAL and elsewhere:
        yield f"loncKeyMode is local, and these are not at {LOCALHOST}: {', '.join(elsewhere[:10])}"
    only_local = (
        settings.key_mode == AUTO and settings.certificates is None and not settings.allow_insecure
    )
    if only_local and elsewhere:
        yield f"without certificates and loncAllowInsecure only {LOCALHOST} can be connected to"


def _user_warnings(settings: Settings) -> Iterator[str]:
    """A sentence for each way in which too few or too many users could use the sockets."""
    directory = settings.socket_directory
    if privileges.permissions_of_others(directory):
        why = "all users can see the names of the hosts in it, and cannot send requests"
        yield f"{directory} (lonSockDir): {why}: chmod o-rwx {directory}"
    if settings.user is None and os.geteuid() == 0:
        try:
            who = privileges.identity(settings)
            group = directory.stat().st_gid
        except (CannotStart, OSError):
            who, group = None, 0
        if who is not None:
            yield f"loncUser is not set: lonc becomes {who}"
        elif group == 0:
            yield "loncUser is not set: lonc runs as root, and nobody else can send requests"


def _shared_name_warnings(settings: Settings, hosts: Sequence[Host]) -> Iterator[Fault]:
    """A warning if a lond cannot know which of its ids is asked."""
    if settings.by_dns and settings.key_mode != CLASSIC:
        return
    need = "loncSocketName dns" if not settings.by_dns else "a loncKeyMode other than classic"
    if not settings.by_dns and settings.key_mode == CLASSIC:
        need += " and a loncKeyMode other than classic"
    machines: dict[tuple[str, str | None], str] = {}  # the first id, by DNS name and address
    shared = []  # hosts of another id's DNS name: id, that other id, host
    for host in hosts:
        for id_ in host.ids:
            first = machines.setdefault((host.dnsname, host.address), id_)
            if first != id_ and host.dnsname:
                shared.append((id_, first, host))
    if shared:
        id_, first, host = shared[0]
        more = f", and {len(shared) - 1} more such ids" if len(shared) > 1 else ""
        text = f"{id_} and {first} have one DNS name, {host.dnsname}{more}: that needs {need}"
        yield Fault(host.file, host.line, f"warning: {text}")


def _warnings(file: Path, settings: Settings, hosts: Sequence[Host]) -> Iterator[Fault]:
    """Warnings of settings and files that are valid but doubtful."""
    from lonc.monitoring.health import certificate_verdict, revocations_verdict
    from lonc.parent.preflight import revocations_until
    from lonc.wire.key_exchange import require_certificates

    if not hosts:
        yield Fault(settings.hosts_file, None, "warning: no hosts; `lonc start` needs --empty")
    for warning in _key_mode_warnings(settings, hosts):
        yield Fault(file, None, f"warning: {warning}")
    yield from _shared_name_warnings(settings, hosts)
    for warning in _user_warnings(settings):
        yield Fault(file, None, f"warning: {warning}")
    if settings.trust_create and settings.create_socket is None:
        yield Fault(file, None, "warning: loncTrustSockCreate has no effect without lonSockCreate")
    with contextlib.suppress(CannotStart):  # reported as an obstacle to a start
        until = require_certificates(settings)
        if (
            until is not None
            and (verdict := certificate_verdict(until, datetime.now(timezone.utc))).level
        ):
            yield Fault(file, None, f"warning: {verdict.text}")
        listed_until = revocations_until(settings)
        if (
            listed_until is not None
            and (verdict := revocations_verdict(listed_until, datetime.now(timezone.utc))).level
        ):
            yield Fault(file, None, f"warning: {verdict.text}")
    with contextlib.suppress(OSError):
        names, _ = spool.waiting(settings.delayed_directory)
        for id_, count in count_strays(names, {each for host in hosts for each in host.ids}).items():
            yield Fault(settings.delayed_directory, None, f"warning: {describe_stray(id_, count)}")
