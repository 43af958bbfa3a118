"""The commands."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lonc import __version__
from lonc.commands import delayed, send, service, status
from lonc.commands.loading import load
from lonc.errors import DONE, FAILED, LoncError, Misconfigured
from lonc.hosts import find_host
from lonc.monitoring.health import DEFAULT

EXAMPLES = {
    "start": "start",
    "stop": "stop",
    "restart": "restart",
    "reload": "reload",
    "update": "update",
    "retry": "retry msul1",
    "disable": "disable msul1",
    "enable": "enable msul1",
    "status": "status --html /home/httpd/html/lon-status/lonc",
    "check-health": "check-health --dead 2,5 --wait 10,60",
    "top": "top --every 2",
    "exporter": "exporter --listen 127.0.0.1:9663",
    "run": "-c loncapa.conf run",
    "check": "check",
    "send": "send --parallel 8 msul1 - < requests",
    "ping": "ping msul1 msul2",
    "delayed": "delayed list",
    "lond": "lond msul1 --database msul1.sqlite",
    "demo": "demo",
}


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
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
    start.set_defaults(command=service.start)

    stop_ = commands.add_parser("stop", help="let the daemon answer what it has accepted, and end")
    stop_.set_defaults(command=service.stop)

    restart = commands.add_parser("restart", help="stop and start, if the files have no faults")
    restart.set_defaults(command=service.restart)

    reload = commands.add_parser("reload", help="take the files as they are now; no client notices")
    reload.set_defaults(command=service.order, order="reload", host=None)

    update = commands.add_parser("update", help="take the hosts that have changed in the table")
    update.set_defaults(command=service.order, order="update", host=None)

    retry = commands.add_parser("retry", help="try hosts that cannot be reached at once")
    retry.add_argument("host", metavar="HOST", nargs="?", help="all, if none is named")
    retry.set_defaults(command=service.order, order="retry")

    disable = commands.add_parser("disable", help="serve a host no more, until enabled or restarted")
    disable.add_argument("host", metavar="HOST")
    disable.set_defaults(command=service.order, order="disable")

    enable = commands.add_parser("enable", help="serve a disabled host again")
    enable.add_argument("host", metavar="HOST")
    enable.set_defaults(command=service.order, order="enable")

    status_ = commands.add_parser("status", help="tell whether the daemon runs, and how each host is")
    status_.add_argument("host", metavar="HOST", nargs="?", help="all that is known of one")
    status_.add_argument("--json", action="store_true", help="for programs: one line")
    help_ = "write index.html and status.json there"
    status_.add_argument("--html", metavar="DIR", type=Path, help=help_)
    status_.set_defaults(command=status.status)

    health = commands.add_parser("check-health", help="tell Nagios and the like whether all is well")
    for name, help_ in (
        ("dead", "hosts that cannot be reached; all of them are critical anyway"),
        ("wait", "seconds that a request has waited for a connection"),
        ("failed", "percent of a host's requests in the last five minutes"),
        ("latency", "seconds, p99 of a host's replies in the last minute"),
        ("delayed", "delayed transactions"),
        ("age", "seconds of the oldest delayed transaction"),
    ):
        default = getattr(DEFAULT, name)
        health.add_argument(
            f"--{name}", metavar="W[,C]", type=status.threshold, default=default, help=help_
        )
    health.set_defaults(command=status.check_health)

    top = commands.add_parser("top", help="show how the hosts are doing, live")
    top.add_argument("--every", metavar="SECONDS", type=float, default=1.0, help="by default 1")
    top.set_defaults(command=status.top)

    exporter = commands.add_parser("exporter", help="serve metrics for Prometheus")
    help_ = "by default 127.0.0.1:9663"
    exporter.add_argument("--listen", metavar="ADDRESS:PORT", default="127.0.0.1:9663", help=help_)
    exporter.set_defaults(command=status.exporter)

    run = commands.add_parser("run", help="serve in the foreground, log on standard error")
    run.set_defaults(command=service.run)

    check = commands.add_parser("check", help="tell all that is wrong in configuration and hosts table")
    check.set_defaults(command=service.check)

    send_ = commands.add_parser("send", help="send a request to a host and print the reply")
    help_ = "if there is no reply, save the request, to be carried out later"
    send_.add_argument("--critical", action="store_true", help=help_)
    help_ = "with -, so many requests at a time; lond may see them in any order"
    send_.add_argument("--parallel", metavar="N", type=int, default=1, help=help_)
    send_.add_argument("host", metavar="HOST")
    send_.add_argument("request", metavar="REQUEST", help="or - for lines from standard input")
    send_.set_defaults(command=send.send)

    ping = commands.add_parser("ping", help="ask hosts for their ids, and tell how long that took")
    ping.add_argument("hosts", metavar="HOST", nargs="*", help="all, if none is named")
    ping.set_defaults(command=send.ping)

    delayed_ = commands.add_parser("delayed", help="look after delayed transactions, and their keys")
    _add_delayed(delayed_)

    lond = commands.add_parser("lond", help="serve as a host of the table, to try lonc on this machine")
    lond.add_argument("host", metavar="HOST")
    lond.add_argument("--database", metavar="FILE", type=Path, help="SQLite; in memory if not named")
    lond.set_defaults(command=_lond)

    demo = commands.add_parser("demo", help="show all of it at work, in a temporary directory")
    demo.set_defaults(command=_demo)

    for name, example in EXAMPLES.items():
        commands.choices[name].epilog = f"example: lonc {example}"
    width = max(map(len, EXAMPLES)) + 2
    examples = "".join(f"  {name:{width}}lonc {example}\n" for name, example in EXAMPLES.items())
    parser.epilog = f"examples:\n{examples}"
    return parser


def _add_delayed(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    keygen = commands.add_parser("keygen", help="make a new key, which seals from now on")
    help_ = "by default that of loncDelayedKeyFile; it is made if need be"
    keygen.add_argument("file", metavar="FILE", nargs="?", type=Path, help=help_)
    keygen.set_defaults(command=delayed.keygen)

    list_ = commands.add_parser("list", help="tell what waits, and how it is sealed")
    list_.set_defaults(command=delayed.list_)

    show = commands.add_parser("show", help="print a request")
    show.add_argument("name", metavar="NAME")
    show.set_defaults(command=delayed.show)

    help_ = "seal with the first key what waits and is not"
    reseal = commands.add_parser("reseal", help=help_)
    reseal.set_defaults(command=delayed.reseal)

    requeue = commands.add_parser("requeue", help="let what was bad wait again")
    requeue.add_argument("--all", action="store_true", help="all that is bad")
    requeue.add_argument("names", metavar="NAME", nargs="*")
    requeue.set_defaults(command=delayed.requeue)

    drop = commands.add_parser("drop", help="remove what is not to be carried out any more")
    drop.add_argument("--host", metavar="ID", help="all that waits for it; in the table or not")
    drop.add_argument("names", metavar="NAME", nargs="*")
    drop.set_defaults(command=delayed.drop)

    for command in (list_, show, drop):
        command.add_argument("--bad", action="store_true", help="only what was put aside as bad")


def _lond(options: argparse.Namespace) -> int:
    from lonc.demo.lond import DemoLond

    settings, hosts = load(options)
    host = find_host(hosts, options.host, settings.hosts_file)
    DemoLond(host, settings, options.database).run()
    return DONE


def _demo(_: argparse.Namespace) -> int:
    from lonc.demo import tour

    return tour.main()
