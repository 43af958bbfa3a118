"""The commands."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from lonc import __version__, delayed, instance, lonnet
from lonc.configuration import Settings, find_configuration, read_settings
from lonc.control import ask
from lonc.errors import (
    DONE,
    FAILED,
    CannotStart,
    Fault,
    LoncError,
    Misconfigured,
    NotRunning,
    UsageError,
)
from lonc.hosts import Host, find_host, read_hosts
from lonc.post import count_strays
from lonc.shutdown import stop
from lonc.status import Report, stray

RELOAD_WITHIN = 600.0  # seconds; sixteen hosts at a time, and twenty seconds for one that hangs

# LSB's exit statuses of `status`.
STATUSES = {
    instance.State.RUNNING: 0,
    instance.State.DEAD: 1,
    instance.State.NOT_RUNNING: 3,
    instance.State.UNKNOWN: 4,
}

PING_TIMEOUT = 10.0  # seconds; whoever pings wants to know soon


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    _open_standard_streams()
    options = _parser().parse_args(arguments)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except Misconfigured as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except LoncError as error:
        print(f"lonc: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        # Our output has nowhere to go; the interpreter must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE:
            print(f"lonc: cannot write the output: {error.strerror}", file=sys.stderr)
        return FAILED
    return status


def _open_standard_streams() -> None:
    """Whoever started us may have closed some: they are empty then, or lead nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lonc",
        description="Carries requests of local programs to the londs of a LON-CAPA network.",
    )
    parser.add_argument("--version", action="version", version=f"lonc {__version__}")
    parser.add_argument(
        "-c",
        dest="configuration",
        metavar="FILE",
        help="the configuration; else $LONC_CONF, /etc/lonc/loncapa.conf, /etc/httpd/conf/loncapa.conf",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    start = commands.add_parser("start", help="start the daemon; ends when every child serves")
    start.set_defaults(command=_start)

    stop_ = commands.add_parser("stop", help="let the daemon answer what it has accepted, and end")
    stop_.set_defaults(command=_stop)

    restart = commands.add_parser("restart", help="stop and start, if the files have no faults")
    restart.set_defaults(command=_restart)

    reload = commands.add_parser("reload", help="take the files as they are now; no client notices")
    reload.set_defaults(command=_order, order="reload", host=None)

    update = commands.add_parser("update", help="take the hosts that have changed in the table")
    update.set_defaults(command=_order, order="update", host=None)

    retry = commands.add_parser("retry", help="try hosts that cannot be reached at once")
    retry.add_argument("host", metavar="HOST", nargs="?", help="all, if none is named")
    retry.set_defaults(command=_order, order="retry")

    disable = commands.add_parser("disable", help="serve a host no more, until enabled or restarted")
    disable.add_argument("host", metavar="HOST")
    disable.set_defaults(command=_order, order="disable")

    enable = commands.add_parser("enable", help="serve a disabled host again")
    enable.add_argument("host", metavar="HOST")
    enable.set_defaults(command=_order, order="enable")

    status = commands.add_parser("status", help="tell whether the daemon runs, and how each host is")
    status.set_defaults(command=_status)

    run = commands.add_parser("run", help="serve in the foreground, log on standard error")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="tell all that is wrong in configuration and hosts table")
    check.set_defaults(command=_check)

    send = commands.add_parser("send", help="send a request to a host and print the reply")
    help_ = "if there is no reply, save the request, to be carried out later"
    send.add_argument("--critical", action="store_true", help=help_)
    send.add_argument("host", metavar="HOST")
    send.add_argument("request", metavar="REQUEST", help="or - for lines from standard input")
    send.set_defaults(command=_send)

    ping = commands.add_parser("ping", help="ask hosts for their ids, and tell how long that took")
    ping.add_argument("hosts", metavar="HOST", nargs="*", help="all, if none is named")
    ping.set_defaults(command=_ping)

    lond = commands.add_parser("lond", help="serve as a host of the table, to try lonc on this machine")
    lond.add_argument("host", metavar="HOST")
    lond.add_argument("--database", metavar="FILE", type=Path, help="SQLite; in memory if not named")
    lond.set_defaults(command=_lond)

    demo = commands.add_parser("demo", help="show all of it at work, in a temporary directory")
    demo.set_defaults(command=_demo)
    return parser


# What only a command or two need is imported there: a ping need not wait for ciphers.


def _start(options: argparse.Namespace) -> int:
    from lonc import launch

    load = _loader(options)
    print(launch.start(*load(), load))
    return DONE


def _stop(options: argparse.Namespace) -> int:
    settings = _tolerant(options)
    try:
        _, hosts = _load(options)
    except Misconfigured:
        hosts = []  # then nobody knows for sure which sockets are ours to clear away
    print(stop(settings, hosts))
    return DONE


def _restart(options: argparse.Namespace) -> int:
    from lonc import launch

    load = _loader(options)
    settings, hosts = load()
    for obstacle in launch.obstacles(settings, hosts):
        raise CannotStart(f"{obstacle}; nothing is stopped")
    print(stop(settings, hosts))
    sys.stdout.flush()
    print(launch.start(settings, hosts, load))
    return DONE


def _order(options: argparse.Namespace) -> int:
    """What only the daemon can do: it is asked to, and answers with text and exit status."""
    settings = _tolerant(options, complain=False)  # of faults the daemon will tell
    found = instance.settled(settings)
    if found.state in (instance.State.NOT_RUNNING, instance.State.DEAD):
        raise NotRunning("it is not running")
    if found.state is instance.State.UNKNOWN:
        raise LoncError(found.why)
    order = " ".join([options.order, *([options.host] if options.host else [])])
    outcome = json.loads(ask(settings, order, RELOAD_WITHIN))
    print(outcome["text"], file=sys.stderr if outcome["exit"] else sys.stdout)
    status: int = outcome["exit"]
    return status


def _status(options: argparse.Namespace) -> int:
    settings = _tolerant(options)
    found = instance.settled(settings)
    if found.state is instance.State.RUNNING:
        try:
            report = Report.from_line(ask(settings, "status"))
        except LoncError as error:
            print(f"lonc is running, pid {found.pid}")
            print(f"lonc: {error}", file=sys.stderr)
            return STATUSES[instance.State.UNKNOWN]
        sys.stdout.write(report.to_text())
    elif found.state is instance.State.DEAD:
        print(f"lonc is not running; it left {settings.pid_file} behind")
    elif found.state is instance.State.NOT_RUNNING:
        print("lonc is not running")
    else:
        print(f"lonc: cannot tell whether it runs: {found.why}", file=sys.stderr)
    return STATUSES[found.state]


def _run(options: argparse.Namespace) -> int:
    from lonc import launch, log

    load = _loader(options)
    settings, hosts = load()
    log.open_log(settings.log_level)
    launch.run(settings, hosts, load)
    return DONE


def _check(options: argparse.Namespace) -> int:
    from lonc import launch

    try:
        file = find_configuration(options.configuration, os.environ)
        settings, hosts = _read(file)
    except Misconfigured as error:
        print(error)
        return error.exit_status
    for warning in _warnings(settings, hosts):
        print(warning)
    for obstacle in launch.obstacles(settings, hosts):
        print(f"{file}: warning: it will not start: {obstacle}")
    print(f"{file} and {settings.hosts_file}: no faults; hosts: {len(hosts)}")
    return DONE


def _warnings(settings: Settings, hosts: Sequence[Host]) -> Iterator[Fault]:
    """What is allowed, and yet hardly meant."""
    if not hosts:
        yield Fault(settings.hosts_file, None, "warning: no hosts")
    with contextlib.suppress(OSError):
        names, _ = delayed.waiting(settings.delayed_directory)
        for id_, count in count_strays(names, {host.id for host in hosts}).items():
            yield Fault(settings.delayed_directory, None, f"warning: {stray(id_, count)}")


def _send(options: argparse.Namespace) -> int:
    settings, hosts = _load(options)
    host = find_host(hosts, options.host, settings.hosts_file).id
    one = os.fsencode(options.request)
    status = DONE
    with lonnet.Lonc(settings) as lonc:
        send = lonc.critical if options.critical else lonc.reply
        for request in sys.stdin.buffer if one == b"-" else [one]:
            try:
                reply = send(request.removesuffix(b"\n"), host)
            except ValueError as error:
                raise UsageError(str(error)) from None
            sys.stdout.buffer.write(reply + b"\n")
            sys.stdout.buffer.flush()
            if reply in (lonnet.CON_LOST, lonnet.CON_FAILED):
                status = FAILED
                _complain(settings, host)
    return status


def _ping(options: argparse.Namespace) -> int:
    settings, hosts = _load(options)
    asked = [find_host(hosts, each, settings.hosts_file) for each in options.hosts] or hosts
    width = max((len(host.id) for host in asked), default=0)
    status = DONE
    for host in asked:
        begun = time.monotonic()
        reply = lonnet.reply("ping", host.id, timeout=PING_TIMEOUT, settings=settings)
        took = (time.monotonic() - begun) * 1000
        print(f"{host.id:<{width}}  {took:8.1f} ms  {_printable(reply)}")
        if reply == lonnet.CON_LOST:
            status = FAILED
            _complain(settings, host.id)
    return status


def _complain(settings: Settings, host: str) -> None:
    """con_lost may mean that no lonc was there to be asked: say so."""
    path = settings.socket_directory / host
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        refusal = probe.connect_ex(str(path))
    if refusal in (errno.ENOENT, errno.ECONNREFUSED):
        print(f"lonc: nobody listens at {path}: is lonc running?", file=sys.stderr)
    elif refusal not in (0, errno.EAGAIN):
        print(f"lonc: cannot connect to {path}: {os.strerror(refusal)}", file=sys.stderr)


def _printable(reply: bytes) -> str:
    """What another machine said, fit for a terminal."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1]
        for character in reply.decode(errors="backslashreplace")
    )


def _lond(options: argparse.Namespace) -> int:
    from lonc.loopback import Loopback

    settings, hosts = _load(options)
    host = find_host(hosts, options.host, settings.hosts_file)
    Loopback(host, settings, options.database).run()
    return DONE


def _demo(_: argparse.Namespace) -> int:
    from lonc import demo

    return demo.main()


def _load(options: argparse.Namespace) -> tuple[Settings, list[Host]]:
    return _loader(options)()


def _loader(options: argparse.Namespace) -> Callable[[], tuple[Settings, list[Host]]]:
    """What reads both files, now and at each reload, wherever that may be."""
    file = find_configuration(options.configuration, os.environ)
    # Where we are may be no more; then the file is not there either.
    with contextlib.suppress(FileNotFoundError):
        file = file.absolute()
    return partial(_read, file)


def _read(file: Path) -> tuple[Settings, list[Host]]:
    """Configuration and table; raises Misconfigured with the faults of both."""
    settings, faults = read_settings(file)
    hosts, more = read_hosts(settings.hosts_file, settings.socket_directory)
    if faults or more:
        raise Misconfigured(faults + more)
    return settings, hosts


def _tolerant(options: argparse.Namespace, complain: bool = True) -> Settings:
    """The settings, as far as they can be read: a typo must not make a running daemon unstoppable.

    Raises Misconfigured where nobody can know which daemon is meant.
    """
    settings, faults = read_settings(find_configuration(options.configuration, os.environ))
    if any(fault.text.startswith("lonDaemons:") for fault in faults):
        raise Misconfigured(faults)
    for fault in faults if complain else ():
        print(fault, file=sys.stderr)
    return settings
