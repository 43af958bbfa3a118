"""A LON-CAPA machine for a test, with real files, londs and a real lonc."""

import contextlib
import json
import os
import pty
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import launcher, preparations

from lonc.commands.cli import main
from lonc.configuration_file import read_settings

TESTS = str(Path(__file__).parents[1])
BIN_LONC = Path(sys.executable).with_name("lonc")
LONC = launcher.prepared([sys.executable, *launcher.OPTIONS, str(BIN_LONC)], None)


def eventually(predicate, seconds=10.0):
    """Call `predicate` until its result is true, and return that; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := predicate()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {predicate}"
        time.sleep(0.005)
    return answer


def python_calling(function: Callable[..., object], *arguments: object, then: str = "") -> list[str]:
    """A Python that imports the module of `function` and calls it.

    `function` belongs to a module in tests/support or tests/faults; `arguments` are paths, texts, bytes,
    numbers, None, or tuples of them.
    """
    name = function.__name__
    code = (
        f"import sys; from pathlib import PosixPath; sys.path.append({TESTS!r});"
        f"from {function.__module__} import {name}; {name}(*{arguments!r}); {then}"
    )
    return [sys.executable, "-bb", "-W", "error", "-c", code]


def program(preparation: Callable[..., None], *arguments: object) -> list[str]:
    """A lonc command in a process that first calls `preparation(*arguments)`."""
    run = f"from {main.__module__} import {main.__name__}; sys.exit({main.__name__}())"
    return launcher.prepared(python_calling(preparation, *arguments, then=run), preparation, *arguments)


AS_NOBODY = program(preparations.become, 65534)


def title(pid):
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0"))
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children_of(pid):
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def exists(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return False
    return state != "Z"


def peak_memory(pid):
    """The largest resident memory of a process so far, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", text)[1])


def holders(file):
    """Pids of daemons that have `file` open: daemons of other tests run beside."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and title(process.name).startswith("lonc: parent"):
                files = [os.readlink(fd) for fd in (process / "fd").iterdir()]
                found += [int(process.name)] if str(file) in files else []
    # Right after fork a child has its parent's title and files.
    children = {child for pid in found for child in children_of(pid)}
    return [pid for pid in found if pid not in children]


def _can_be_forked(program):
    return launcher.current is not None and isinstance(program, launcher.Command)


class Daemon:
    """A daemon in the background, with the methods of Popen that tests use."""

    stdout = None

    def __init__(self, pid):
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def poll(self):
        return None if exists(self.pid) else "gone"

    def send_signal(self, signum):
        signal.pidfd_send_signal(self._pidfd, signum)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def wait(self, seconds=20.0):
        try:
            eventually(lambda: not exists(self.pid), seconds)
        except AssertionError:
            raise subprocess.TimeoutExpired("lonc start", seconds) from None

    def close(self):
        os.close(self._pidfd)


def write_configuration(directory, port, **settings):
    """Write the configuration of a lonc whose files are all in that directory."""
    values = {
        "lonHostID": "a1",
        "lonTabDir": directory / "tabs",
        "lonSockDir": directory / "sockets",
        "lonDaemons": directory / "daemons",
        "londPort": port,
        **settings,
    }
    values.setdefault("loncSyncInterval", 0)  # the scripts of londs do not expect `ping`
    file = directory / "loncapa.conf"
    file.write_text("".join(f"PerlSetVar {name} {value}\n" for name, value in values.items()))
    return file


class Machine:
    """`configure` takes settings as keyword arguments; host N, from 1, has the address 127.x.y.N."""

    def __init__(self, directory):
        self.directory = directory
        self.network = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}"
        self.port = free_port(f"{self.network}.1")
        self.table = directory / "tabs" / "hosts.tab"
        self.sockets = directory / "sockets"
        self.pid_file = directory / "daemons" / "logs" / "lonc.pid"
        self.lock_file = self.pid_file.with_name("lonc.lock")
        self.log_file = directory / "log"
        self.table.parent.mkdir()
        (directory / "daemons").mkdir()
        self.lonc: Any = None  # a Popen or a Daemon
        self._processes = []
        self._clients = []
        self.configure()
        self.hosts("l1")

    def configure(self, **settings):
        self.configuration = write_configuration(self.directory, self.port, **settings)

    def settings(self):
        """The settings, as a program of this machine reads them."""
        return read_settings(self.configuration)[0]

    def address(self, number):
        return f"{self.network}.{number}"

    def hosts(self, *ids):
        lines = [
            f"{id_}:dom:library:{id_}.example.org:{self.address(number)}\n"
            for number, id_ in enumerate(ids, start=1)
        ]
        self.table.write_text("".join(lines))

    def command(self, *arguments, input=b"", timeout=60, program=LONC, **options):
        """Run one lonc command to its end: by fork, or by exec if it gets input or options of Popen."""
        if _can_be_forked(program) and not input and not options:
            return launcher.run(program, self._command_line(*arguments), timeout)
        return subprocess.run(
            [*program, "-c", self.configuration, *arguments],
            input=input,
            capture_output=True,
            timeout=timeout,
            **options,
        )

    def _command_line(self, *arguments):
        return [str(BIN_LONC), "-c", str(self.configuration), *map(os.fsdecode, arguments)]

    def start_lond(self, host, *arguments):
        if _can_be_forked(LONC):
            readable, writable = os.pipe()
            with open(os.devnull, "rb") as nothing, open(writable, "wb") as output:
                process = launcher.current.start(
                    LONC,
                    self._command_line("lond", host, *arguments),
                    nothing.fileno(),
                    output.fileno(),
                    2,
                )
            process.stdout = open(readable, "rb")  # noqa: SIM115 (closed at the end of the test)
        else:
            process = subprocess.Popen(
                [*LONC, "-c", self.configuration, "lond", host, *arguments], stdout=subprocess.PIPE
            )
        self._processes.append(process)
        assert b" listens at " in process.stdout.readline()
        return process

    def run(self, wait=True, program=LONC, **options):
        """Start `lonc run`, and wait until every child serves."""
        with self.log_file.open("ab") as log, open(os.devnull, "rb") as nothing:
            if _can_be_forked(program) and not options:
                line = self._command_line("run")
                process = launcher.current.start(program, line, nothing.fileno(), 1, log.fileno())
            else:
                command = [*program, "-c", self.configuration, "run"]
                process = subprocess.Popen(command, stderr=log, stdin=nothing, **options)
        self._processes.append(process)
        self.lonc = process
        if wait:
            eventually(self.serves)
        return process

    def run_with(self, preparation: Callable[..., None], *arguments: object) -> subprocess.Popen:
        """`lonc run` in a process that first calls `preparation(*arguments)`."""
        return self.run(program=program(preparation, *arguments))

    def start(self, command="start", **options):
        """Start the daemon and return the output; `log` reads the daemon's log file from now on."""
        done = self.command(*command.split(), **options)
        assert (done.returncode, done.stderr) == (0, b"")
        self.log_file = self.pid_file.with_name("lonc.log")
        self.lonc = Daemon(int(self.pid_file.read_text()))
        self._processes.append(self.lonc)
        return done.stdout.decode()

    def serves(self):
        assert self.lonc.poll() is None, self.log()
        with contextlib.suppress(FileNotFoundError):
            return self.pid_file.read_text() == f"{self.lonc.pid}\n"

    def log(self):
        return self.log_file.read_text()

    def crashes(self):
        """The CRITICAL lines of the log, except those of hosts that became DEAD."""
        lines = self.log().splitlines()
        return [line for line in lines if " CRITICAL " in line and ": DEAD: " not in line]

    def socket_files(self):
        """Names in the socket directory, without the spool and the lock."""
        return sorted(set(os.listdir(self.sockets)) - {"delayed", ".lonc~lock"})

    def children(self):
        """Host id -> pid, by title."""
        found = {}
        for pid in children_of(self.lonc.pid):
            words = title(pid).split()
            if words[:1] == ["lonc:"] and words[1] != "parent,":
                found[words[1]] = pid
        return found

    def connect(self, host="l1", timeout=30.0):
        client = socket.socket(socket.AF_UNIX)
        self._clients.append(client)
        client.settimeout(timeout)
        client.connect(str(self.sockets / host))
        return client

    def ask(self, request, host="l1"):
        """Send a request over a new connection and return the reply, both without newline."""
        with self.connect(host) as client:
            client.sendall(request + b"\n")
            return read_line(client)

    def status(self, host="l1"):
        return json.loads(self.ask(b"lonc:status", host))

    def end(self):
        for client in self._clients:
            client.close()
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
            if isinstance(process, Daemon):
                process.close()
        left = holders(self.lock_file)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == [], "the test has left a daemon behind"

    def stop(self, signum=signal.SIGTERM):
        self.lonc.send_signal(signum)
        return self.lonc.wait(20)


def asked(machine, command):
    """Send a command to the control socket of the daemon and return the answer, without newline."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(30)
        control.connect(str(machine.pid_file.with_name("lonc.ctl")))
        control.sendall(command + b"\n")
        return read_line(control)


def without_prefix(stderr):
    """Error lines of a command without their prefix `lonc: `, which each must have."""
    lines = stderr.decode().splitlines(keepends=True)
    assert all(line.startswith("lonc: ") for line in lines), stderr
    return "".join(line.removeprefix("lonc: ") for line in lines)


def read_line(client):
    """The next line from a socket, without its newline, or the bytes before EOF."""
    received = bytearray()
    while not received.endswith(b"\n"):
        data = client.recv(1 << 20)
        if not data:
            break
        received += data
    return bytes(received).removesuffix(b"\n")


def read_to_the_end(client):
    """All bytes until the other side closes."""
    received = bytearray()
    while data := client.recv(1 << 20):
        received += data
    return bytes(received)


class Terminal:
    """A command on a terminal of its own, 100 columns wide."""

    def __init__(self, command):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS="100", LINES="30")
            os.execv(command[0], [str(each) for each in command])
        self.shown = ""

    def until(self, pattern, seconds=10.0):
        """Read until the output since the last call matches `pattern`, and return that output."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.shown):
            assert time.monotonic() < deadline, self.shown
            if select.select([self.fd], [], [], 0.1)[0]:
                self.shown += os.read(self.fd, 65536).decode(errors="replace")
        shown, self.shown = self.shown, ""
        return shown

    def type(self, text):
        os.write(self.fd, text)

    def end(self):
        """Read the remaining output and return the exit status."""
        with contextlib.suppress(OSError):
            while os.read(self.fd, 65536):
                pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def free_port(address):
    with socket.socket() as probe:
        probe.bind((address, 0))
        return probe.getsockname()[1]


def as_nobody(function):
    """The text that `function` returns in a child process that is not root: root can read every file."""

    def run():
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        return function()

    return in_child(run)


def in_child(function):
    """The text that `function` returns in a child process, where it may change any global state."""
    write = os.write
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write(writable, function().encode())
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text
