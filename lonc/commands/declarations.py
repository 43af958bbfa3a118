"""Every command of lonc, declared once: parser, help and documents are made from this."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lonc.commands import config, delayed, demo, send, service, status
from lonc.commands.usage import Argument, Command, print_help
from lonc.monitoring.health import DEFAULT, Threshold

# The groups of the commands and their headings, in the order in which help and documents show them.
GROUPS = {
    "daily": "daily work",
    "looking": "looking at the daemon and its hosts",
    "delayed": "delayed transactions and their keys",
    "trying": "sending requests and trying lonc",
}


def _default(threshold: Threshold) -> str:
    numbers = [threshold.warning, threshold.critical]
    return ",".join(f"{number:g}" for number in numbers if number != float("inf"))


def _threshold(name: str, meaning: str) -> Argument:
    """The option of `check-health` that sets one of `Thresholds`."""
    default: Threshold = getattr(DEFAULT, name)
    return Argument(
        f"--{name}",
        metavar="W[,C]",
        type=status.threshold,
        default=default,
        help=f"{meaning} (default {_default(default)})",
    )


_EMPTY = Argument("--empty", action="store_true", help="start also if the tables have no host")
_HOST = Argument("host", metavar="HOST", help="id of a host in hosts.tab")
_ONLY_BAD = Argument("--bad", action="store_true", help="only transactions that were rejected as bad")
_TAKE_OVER = Argument(
    "--take-over",
    action="store_true",
    help="also where another lonc serves, as the original in Perl: its sockets are replaced",
)

COMMANDS = (
    Command(
        "start",
        "daily",
        "start the daemon and wait until it serves",
        "Starts the daemon in the background. Returns when every child serves, or prints why one cannot."
        " A line of a table that has a fault is logged and skipped. If lonc runs already, hosts that are"
        " unreachable are retried at once. If another lonc serves, as the original in Perl, nothing is"
        " started.",
        "start",
        service.start,
        [_EMPTY, _TAKE_OVER],
    ),
    Command(
        "stop",
        "daily",
        "answer accepted requests, then stop the daemon",
        "Accepts no more clients and requests, waits up to loncDrainTimeout seconds for the replies to"
        " accepted requests, answers the others con_lost, and stops the daemon. Works even if the"
        " configuration has faults.",
        "stop",
        service.stop,
    ),
    Command(
        "restart",
        "daily",
        "stop and start the daemon, after checking that it can start",
        "First checks the configuration, the tables and the machine; if anything would prevent a start,"
        " or the tables have no host and lonc serves some, nothing is stopped. Needed after an upgrade"
        " of lonc and for the settings that a reload cannot change.",
        "restart",
        service.restart,
        [_TAKE_OVER],
    ),
    Command(
        "reload",
        "daily",
        "apply configuration and hosts.tab; clients stay connected",
        "Rereads configuration and tables. Each child is replaced by a new one that takes over its"
        " clients. If a file has a fault, nothing changes.",
        "reload",
        partial(service.order, "reload"),
    ),
    Command(
        "update",
        "daily",
        "apply changes of hosts.tab only",
        "Takes the tables only, not the configuration. Touches only hosts that were added, changed or"
        " removed, whose last change failed, or whose socket is missing. If a file has a fault, nothing"
        " changes.",
        "update",
        partial(service.order, "update"),
    ),
    Command(
        "retry",
        "daily",
        "connect to unreachable hosts now",
        "Retries one host, or all, at once instead of after the retry delay, and forgets its past"
        " failures.",
        "retry msul1",
        partial(service.order, "retry"),
        [Argument("host", metavar="HOST", nargs="?", help="id of a host in hosts.tab; default: all")],
    ),
    Command(
        "disable",
        "daily",
        "stop serving a host until it is enabled",
        "Answers requests for the host con_lost and opens no connections to it, until `lonc enable` or"
        " a restart.",
        "disable msul1",
        partial(service.order, "disable"),
        [_HOST],
    ),
    Command(
        "enable",
        "daily",
        "serve a disabled host again",
        "Serves a host again that was disabled.",
        "enable msul1",
        partial(service.order, "enable"),
        [_HOST],
    ),
    Command(
        "run",
        "daily",
        "run the daemon in the foreground, logging to standard error",
        "Runs the daemon in the foreground and logs to standard error; for systemd and other"
        " supervisors. TERM stops it, HUP reloads it.",
        "-c loncapa.conf run",
        service.run,
        [_EMPTY, _TAKE_OVER],
    ),
    Command(
        "check",
        "daily",
        "check configuration and hosts.tab",
        "Prints every fault of the configuration and the tables; then the exit status is 6. Without"
        " faults it prints which defaults it took because lonSockCreate is set, and warns of doubtful"
        " settings and of anything that would prevent a start.",
        "check",
        service.check,
    ),
    Command(
        "config",
        "looking",
        "print every setting, its value and where it comes from",
        "Prints every setting with its value, whether a change of it needs a restart or a reload, and"
        " where the value comes from: a line of a file, or the default. Faults are printed as errors.",
        "config --running",
        config.config,
        [
            Argument(
                "--running",
                action="store_true",
                help="only settings that have another value in the running daemon",
            )
        ],
    ),
    Command(
        "status",
        "looking",
        "print whether the daemon runs and the state of each host",
        "Prints whether the daemon runs and a table of the hosts, the worst first; or all details of"
        " one host, a JSON report, or a web page. The exit status is that of an LSB init script.",
        "status --html /home/httpd/html/lon-status/lonc",
        status.status,
        [
            Argument("host", metavar="HOST", nargs="?", help="print all details of this host"),
            Argument("--json", action="store_true", help="print the report as one line of JSON"),
            Argument(
                "--html",
                metavar="DIR",
                type=Path,
                help="write index.html and status.json into this existing directory",
            ),
        ],
    ),
    Command(
        "check-health",
        "looking",
        "check the daemon, as a plugin for Nagios, Icinga and others",
        "Prints one line with performance data; the exit status is 0, 1, 2 or 3 for OK, WARNING,"
        " CRITICAL or UNKNOWN. Critical is a child that hangs or is missing, and if all hosts are DEAD."
        " Each option takes the number from which on the result is a warning, and, after a comma,"
        " the number from which on it is critical.",
        "check-health --dead 2,5 --wait 10,60",
        status.check_health,
        [
            _threshold("dead", "number of unreachable hosts"),
            _threshold("wait", "seconds that a request has waited for a connection"),
            _threshold("reply", "seconds that a request in flight has waited for its reply"),
            _threshold(
                "busy",
                "seconds of the last minute in which all connections of a host were busy,"
                " while requests waited for one",
            ),
            _threshold("failed", "percentage of a host's requests that failed in the last five minutes"),
            _threshold("latency", "seconds, p99 of a host's replies in the last minute"),
            _threshold("delayed", "number of delayed transactions"),
            _threshold("age", "age in seconds of the oldest delayed transaction"),
        ],
    ),
    Command(
        "top",
        "looking",
        "show the hosts live on the whole terminal",
        "Shows the hosts live, with request rates and the last minutes. Keys choose the order; q quits."
        " Needs the Python package rich.",
        "top --every 2",
        status.top,
        [
            Argument(
                "--every",
                metavar="SECONDS",
                type=float,
                default=1.0,
                help="interval between two updates (default 1)",
            )
        ],
    ),
    Command(
        "exporter",
        "looking",
        "serve metrics for Prometheus",
        "Serves metrics over HTTP at /metrics, in the foreground, and asks the daemon at each scrape."
        " Needs the Python package prometheus_client.",
        "exporter --listen 127.0.0.1:9663",
        status.exporter,
        [
            Argument(
                "--listen",
                metavar="ADDRESS:PORT",
                default="127.0.0.1:9663",
                help="address and port to listen at (default 127.0.0.1:9663)",
            )
        ],
    ),
    Command(
        "delayed",
        "delayed",
        "manage delayed transactions and their keys",
        "Manages the delayed transactions in lonSockDir/delayed, which wait until their host is"
        " reachable, and the keys that seal them.",
        "delayed list",
    ),
    Command(
        "delayed list",
        "delayed",
        "list delayed transactions",
        "Lists the delayed transactions: name, host, age, size in bytes, and the key that sealed each.",
        "delayed list --bad",
        delayed.list_,
        [_ONLY_BAD],
    ),
    Command(
        "delayed show",
        "delayed",
        "print the request of a delayed transaction",
        "Prints the request of a delayed transaction, unsealed.",
        "delayed show 1764045287.0.4711.put.msul2",
        delayed.show,
        [Argument("name", metavar="NAME", help="name that `lonc delayed list` prints"), _ONLY_BAD],
    ),
    Command(
        "delayed drop",
        "delayed",
        "remove delayed transactions",
        "Removes delayed transactions that must not be sent any more, and records that in"
        " logs/lonnet.perm.log. A transaction in flight is not removed.",
        "delayed drop --host msul2",
        delayed.drop,
        [
            Argument(
                "--host",
                metavar="ID",
                help="remove all transactions for this host, which need not be in hosts.tab",
            ),
            Argument("names", metavar="NAME", nargs="*", help="names that `lonc delayed list` prints"),
            _ONLY_BAD,
        ],
    ),
    Command(
        "delayed requeue",
        "delayed",
        "try rejected transactions again",
        "Moves transactions that were rejected as bad back into the spool, under their own names.",
        "delayed requeue --all",
        delayed.requeue,
        [
            Argument("--all", action="store_true", help="requeue all bad transactions"),
            Argument("names", metavar="NAME", nargs="*", help="names that `lonc delayed list` prints"),
        ],
    ),
    Command(
        "delayed keygen",
        "delayed",
        "make a new key, which seals from now on",
        "Puts a new key in front of those in the key file, which is created if it is missing. The new"
        " key seals from now on; the old ones still unseal.",
        "delayed keygen /etc/lonc/delayed.keys",
        delayed.keygen,
        [
            Argument(
                "file",
                metavar="FILE",
                nargs="?",
                type=Path,
                help="key file (default: loncDelayedKeyFile)",
            )
        ],
    ),
    Command(
        "delayed reseal",
        "delayed",
        "seal delayed transactions with the first key",
        "Seals with the first key every delayed transaction that is plain or sealed with another key. A"
        " transaction in flight is not resealed.",
        "delayed reseal",
        delayed.reseal,
        [
            Argument(
                "--plain",
                action="store_true",
                help="unseal them instead, as the original in Perl needs them",
            )
        ],
    ),
    Command(
        "send",
        "trying",
        "send a request to a host and print the reply",
        "Sends one request, or each line of standard input, to a host and prints the replies in the"
        " order of the requests.",
        "send --parallel 8 msul1 - < requests",
        send.send,
        [
            Argument(
                "--critical",
                action="store_true",
                help="without a reply, save the request as a delayed transaction",
            ),
            Argument(
                "--parallel",
                metavar="N",
                type=int,
                default=1,
                help="number of requests in flight (with -); lond may receive them in any order",
            ),
            Argument(
                "--raw",
                action="store_true",
                help="print replies unchanged on a terminal too, where control characters are escaped",
            ),
            _HOST,
            Argument("request", metavar="REQUEST", help="the request, or - for lines of standard input"),
        ],
    ),
    Command(
        "ping",
        "trying",
        "ask hosts for their ids and print the response times",
        "Asks hosts for their ids, in parallel, and waits up to ten seconds for each reply. A reply with"
        " another id than the one that was asked is reported.",
        "ping msul1 msul2",
        send.ping,
        [Argument("hosts", metavar="HOST", nargs="*", help="ids of hosts in hosts.tab; default: all")],
    ),
    Command(
        "lond",
        "trying",
        "run a small lond for a host of hosts.tab on this machine",
        "Runs a small lond at the host's address in hosts.tab until ^C, to try lonc on one machine.",
        "lond msul1 --database msul1.sqlite",
        demo.lond,
        [
            _HOST,
            Argument(
                "--database",
                metavar="FILE",
                type=Path,
                help="SQLite file for its users' data (default: in memory)",
            ),
        ],
    ),
    Command(
        "demo",
        "trying",
        "demonstrate lonc in a temporary directory",
        "Starts londs and a daemon in a temporary directory, demonstrates them step by step, and removes"
        " everything again.",
        "demo",
        demo.tour,
    ),
    Command(
        "help",
        "trying",
        "print help, also of one command",
        "Prints the list of commands, or the help of one command.",
        "help delayed list",
        print_help,
        [Argument("words", metavar="COMMAND", nargs="*", help="one command, such as `delayed list`")],
    ),
)
