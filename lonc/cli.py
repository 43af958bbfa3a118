"""The commands."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lonc import __version__, lonnet
from lonc.configuration import Settings, find_configuration, read_settings
from lonc.errors import Fault, LoncError, Misconfigured, UsageError
from lonc.hosts import Host, find_host, read_hosts

# LSB's exit statuses.
DONE, FAILED, USAGE, MISCONFIGURED = 0, 1, 2, 6

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
        return MISCONFIGURED
    except LoncError as error:
        print(f"lonc: {error}", file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else FAILED
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

    run = commands.add_parser("run", help="serve in the foreground, log on standard error")
    run.set_defaults(command=_run)

    check = commands.add_parser("check", help="tell all that is wrong in configuration and hosts table")
    check.set_defaults(command=_check)

    send = commands.add_parser("send", help="send a request to a host and print the reply")
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


def _run(options: argparse.Namespace) -> int:
    from lonc import instance, log

    settings, hosts = _load(options)
    log.open_log(settings.log_level)
    instance.run(settings, hosts)
    return DONE


def _check(options: argparse.Namespace) -> int:
    from lonc.cipher import require_idea

    try:
        file = find_configuration(options.configuration, os.environ)
        settings, hosts = _read(file)
    except Misconfigured as error:
        print(error)
        return MISCONFIGURED
    require_idea()
    for warning in _warnings(file, settings, hosts):
        print(warning)
    print(f"{file} and {settings.hosts_file}: no faults; hosts: {len(hosts)}")
    return DONE


def _warnings(file: Path, settings: Settings, hosts: Sequence[Host]) -> Iterator[Fault]:
    """What is allowed, and yet hardly meant."""
    for name, directory in (
        ("lonSockDir", settings.socket_directory),
        ("lonDaemons", settings.log_directory),
    ):
        if not directory.parent.is_dir():
            text = f"warning: {name}: {directory} cannot be made, there is no {directory.parent}"
            yield Fault(file, None, text)
    if not hosts:
        yield Fault(settings.hosts_file, None, "warning: no hosts")
    for host in hosts:
        if host.address is None:
            text = f"warning: {host.id} has no IPv4 address, and names are not resolved yet"
            yield Fault(settings.hosts_file, host.line, text)


def _send(options: argparse.Namespace) -> int:
    settings, hosts = _load(options)
    host = find_host(hosts, options.host, settings.hosts_file).id
    one = os.fsencode(options.request)
    status = DONE
    for request in sys.stdin.buffer if one == b"-" else [one]:
        try:
            reply = lonnet.reply(request.removesuffix(b"\n"), host, settings=settings)
        except ValueError as error:
            raise UsageError(str(error)) from None
        sys.stdout.buffer.write(reply + b"\n")
        sys.stdout.buffer.flush()
        if reply == lonnet.CON_LOST:
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
    return _read(find_configuration(options.configuration, os.environ))


def _read(file: Path) -> tuple[Settings, list[Host]]:
    """Configuration and table; raises Misconfigured with the faults of both."""
    settings, faults = read_settings(file)
    hosts, more = read_hosts(settings.hosts_file, settings.socket_directory)
    if faults or more:
        raise Misconfigured(faults + more)
    return settings, hosts
