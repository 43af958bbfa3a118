"""Changes that a test makes inside a lonc process before its main function runs.

`support.machine.program` makes the new process call one of these functions. They assign to attributes of
modules and classes, so mypy checks every name. Paths and numbers are the only arguments.
"""

import errno
import os
import secrets  # noqa: F401 (see `become`)
import signal
import socket
import sys
import time

import daemon  # noqa: F401 (see `become`)

import lonc.commands.cli
import lonc.demo.tour
import lonc.lifecycle.start  # noqa: F401 (see `become`)
from lonc.child import child, lond_connection, replay
from lonc.child.child import Child, Pool
from lonc.commands import send
from lonc.commands import status as status_command
from lonc.lifecycle import control_client, instance, stop
from lonc.monitoring import health
from lonc.parent import child_process, spool_scan, supervisor
from lonc.parent.child_process import ChildProcess
from lonc.parent.parent import Parent
from lonc.runtime import process


def become(number):
    """Run as the user and group of that number.

    The modules that a command may need are imported above: only root may be able to read them.
    """
    os.setgroups([])
    os.setgid(number)
    os.setuid(number)


def become_as_by_login(number):
    """As `become`, and other processes of that user may trace this one, as after an exec."""
    become(number)
    process._prctl(process.PR_SET_DUMPABLE, 1, 0, 0, 0)


def pretend_to_become_another_user(call):
    """os.CALL returns without having done anything; the process has the groups 4 and 5."""
    os.setgroups([4, 5])
    setattr(os, call, lambda *_: None)


# Times and limits


def restart_at_once():
    """Replace a dead child after 50 ms each time, and look for delayed transactions as often."""
    supervisor.RESTART_FIRST = supervisor.RESTART_LONGEST = 0.05
    replay.LOOK_AGAIN = 0.05


def restart_after(seconds):
    """Replace a dead child at once, but after so many seconds if it dies again."""
    supervisor.RESTART_FIRST = supervisor.RESTART_LONGEST = seconds


def lived_long_after(seconds):
    supervisor.LIVED_LONG = seconds


def kill_after(seconds):
    """The parent kills a child, and `lonc stop` the parent, that long after the time to drain."""
    child_process.KILL_AFTER = seconds
    stop.KILL_AFTER = seconds


def ask_impatiently():
    """Commands wait only 0.2 s for the daemon's lock or answer, and kill it after 0.3 s."""
    stop.KILL_AFTER = 0.3
    control_client.ask.__defaults__ = (0.2,)
    instance.settled.__defaults__ = (0.2,)


def refuse_pidfd(error, impatiently=False):
    """pidfd_open fails with that error, as in older containers."""

    def refuse(pid, flags=0):
        number = getattr(errno, error)
        raise OSError(number, os.strerror(number))

    os.pidfd_open = refuse
    if impatiently:
        ask_impatiently()


def ping_for(seconds):
    send.PING_TIMEOUT = seconds


def check_children_often():
    """A child that has not answered for 1 s hangs; it is asked every 100 ms."""
    child_process.PING_EVERY = 0.1
    child_process.MAX_UNANSWERED = 10


def busy_for(seconds):
    """`lonc status` reports a pool as too small if it was busy for that long in the last minute."""
    health.describe_small_pool.__defaults__ = (health.Threshold(seconds),)


def abandon_after(seconds):
    spool_scan.ABANDONED_AFTER = seconds


def receive_at_most(size):
    lond_connection.RECEIVE_SIZE = size


# Children


def _run_child(run):
    """Let every child call `run(child, original)` for Child.run."""
    original = Child.run
    Child.run = lambda self: run(self, original)


def hang_in_every_child():
    """No child becomes ready, and the parent waits 300 ms for that."""
    child_process.READY_WITHIN = 0.3
    _run_child(lambda child, run: time.sleep(100))


def hang_while(flag, host):
    """A child of `host` hangs when it starts while that file exists; ready and left within 500 ms."""
    child_process.READY_WITHIN = child_process.LEAVING_WITHIN = 0.5
    _run_child(
        lambda child, run: time.sleep(60) if flag.exists() and child._host.id == host else run(child)
    )


def start_late(seconds, flag=None, within=None):
    """Children start that late, with `flag` only while that file exists.

    The parent waits `within` seconds for each.
    """
    if within is not None:
        child_process.READY_WITHIN = within

    def late(child, run):
        if flag is None or flag.exists():
            time.sleep(seconds)
        return run(child)

    _run_child(late)


def start_late_and_kill_late(flag):
    """While that file exists a child is ready after 400 ms, 100 ms too late, and killed 400 ms later."""
    start_late(0.4, flag, within=0.3)
    kill = ChildProcess.kill

    def kill_late(child, why):
        time.sleep(0.4)
        return kill(child, why)

    ChildProcess.kill = kill_late


def exit_at_start(host=None, while_exists=None):
    """Children exit with status 3 as soon as they run: of that host, while that file exists."""

    def dying(child, run):
        if host in (None, child._host.id) and (while_exists is None or while_exists.exists()):
            os._exit(3)
        return run(child)

    _run_child(dying)


def crash_when_connecting(host):
    """The child of that host divides by zero when it makes its first connection, and is never ready."""
    make = Child.make_lond_connection

    def crashing(child):
        if child._host.id == host:
            1 / 0  # noqa: B018
        return make(child)

    Child.make_lond_connection = crashing
    child.READY = b""


def say_nonsense_when_ready():
    child.READY = b"ready\nnonsense\n"


def say_nonsense_and_exit(when_exists):
    """Children say what the parent does not know; once that file exists they exit before they serve.

    The parent does not kill them.
    """
    say_nonsense_when_ready()
    child_process.READY = b"ready\n"
    opened = Pool.open

    def open_or_exit(pool):
        if when_exists.exists():
            os._exit(3)
        return opened(pool)

    Pool.open = open_or_exit
    ChildProcess.kill = lambda *_: None


def report_status(line):
    """Children report that line as their status."""
    Child.status_line = lambda self: line + b"\n"


def crash_when_asked_for_status():
    """Children crash with a message of two lines and a surrogate."""

    def crash(self):
        raise Exception("one\ntwo\udcff")

    Child.status_line = crash


# The parent and the commands


def crash_in_parent():
    Parent.run = lambda self: 1 / 0


def kill_parent():
    Parent.run = lambda self: os.kill(os.getpid(), signal.SIGKILL)


def not_understand_reports():
    status_command.Report.from_line = lambda _: int("x")


def without_library(name):
    """An import of that library fails."""
    sys.modules[name] = None


# The system


def resolve_slowly():
    socket.getaddrinfo = lambda *_: time.sleep(60)


def resolve_to(*addresses):
    """Every name has these addresses: pairs of address and port."""
    found = [(int(socket.AF_INET), int(socket.SOCK_STREAM), 6, "", address) for address in addresses]
    socket.getaddrinfo = lambda *_: found


def no_descriptors_while(flag):
    """accept() fails with ENFILE while that file exists."""
    accept = socket.socket.accept

    def failing(self):
        if flag.exists():
            raise OSError(errno.ENFILE, "none left")
        return accept(self)

    socket.socket.accept = failing


def jump_in_time(seconds, flag):
    """The wall clock is that much ahead while that file exists."""
    real = time.time
    time.time = lambda: real() + (seconds if flag.exists() else 0)
