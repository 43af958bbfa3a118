"""Starts lonc commands by fork: a process that has imported lonc once forks for each command.

A command started by exec spends 0.1 to 0.2 s of CPU on imports, and the suite starts about a thousand.
The forked process runs the same main function, in an interpreter with the same options.
"""

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import Any

TESTS = str(Path(__file__).parents[1])
OPTIONS = ["-bb", "-W", "error"]
REQUEST_SIZE = 1 << 17


class Command(list):
    """The arguments that start Python, and how a forked process does the same."""

    preparation: Callable[..., object] | None = None
    arguments: tuple = ()


def prepared(command: list, preparation: Callable[..., object] | None, *arguments: object) -> Command:
    """That command, to be forked: call `preparation(*arguments)`, then run lonc."""
    made = Command(command)
    made.preparation, made.arguments = preparation, arguments
    return made


class Launcher:
    """The process that forks. It ends when this process closes the socket to it, or ends."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = (
            f"import sys; sys.path.append({TESTS!r});"
            f"from {serve.__module__} import {serve.__name__}; {serve.__name__}({theirs.fileno()})"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *OPTIONS, "-c", code],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        self._lock = RLock()
        self._statuses: dict[int, int] = {}
        self._started: list[int] = []

    def start(self, command: Command, arguments: list[str], stdin: int, out: int, err: int) -> "Process":
        """Fork a process that runs the command with those descriptors as its standard streams."""
        request = (command.preparation, command.arguments, arguments, os.getcwd(), dict(os.environ))
        data = pickle.dumps(request)
        assert len(data) < REQUEST_SIZE
        with self._lock:
            socket.send_fds(self._socket, [data], [stdin, out, err])
            while not self._started:
                self.receive(60)
            return Process(self, self._started.pop())

    def receive(self, seconds: float) -> None:
        """Wait that long for a message: a process has started or has ended."""
        with self._lock:
            if not select.select([self._socket], [], [], max(0.0, seconds))[0]:
                return
            data = self._socket.recv(REQUEST_SIZE)
            assert data, "the launcher has ended"
            pid, status = pickle.loads(data)
            if status is None:
                self._started.append(pid)
            else:
                self._statuses[pid] = status

    def status(self, pid: int) -> int | None:
        """The exit status of a process, once: as Popen.returncode. None while it runs."""
        with self._lock:
            self.receive(0)
            return self._statuses.pop(pid, None)

    def end(self) -> None:
        self._socket.close()
        self._process.wait(20)


# Set by a fixture while tests run.
current: Launcher | None = None


class Process:
    """A forked process, with the methods of Popen that tests use."""

    def __init__(self, launcher: Launcher, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout: Any = None
        self._launcher = launcher

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._launcher.status(self.pid)
        return self.returncode

    def wait(self, timeout: float = 600.0) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("lonc", timeout)
            self._launcher.receive(min(0.05, deadline - time.monotonic()))
        return status

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(command: Command, arguments: list[str], timeout: float) -> subprocess.CompletedProcess:
    """As subprocess.run with captured output and no input: return when nobody can write any more."""
    assert current is not None
    with open(os.devnull, "rb") as nothing:
        out, theirs_out = os.pipe()
        err, theirs_err = os.pipe()
        process = current.start(command, arguments, nothing.fileno(), theirs_out, theirs_err)
    os.close(theirs_out)
    os.close(theirs_err)
    received = {out: b"", err: b""}
    deadline = time.monotonic() + timeout
    reading = [out, err]
    try:
        while reading:
            ready = select.select(reading, [], [], max(0.0, deadline - time.monotonic()))[0]
            if not ready:
                process.kill()
                raise subprocess.TimeoutExpired([*command, *arguments], timeout)
            for fd in ready:
                data = os.read(fd, 1 << 16)
                received[fd] += data
                if not data:
                    reading.remove(fd)
        status = process.wait(max(1.0, deadline - time.monotonic()))
    finally:
        os.close(out)
        os.close(err)
    return subprocess.CompletedProcess([*command, *arguments], status, received[out], received[err])


def serve(fd: int) -> None:
    """The process that forks: answers each request with a pid, and reports the end of each process."""
    import gc

    import setproctitle  # notes where the title is, before the environment changes
    from support import preparations

    setproctitle.getproctitle()
    del preparations  # imported for what it imports
    gc.collect()
    gc.freeze()  # a collection in a forked process does not copy what is here
    with socket.socket(fileno=fd) as requests:
        processes: dict[int, int] = {}  # pidfd -> pid
        while True:
            ready = select.select([requests, *processes], [], [])[0]
            for each in ready:
                if isinstance(each, int):
                    os.close(each)
                    pid = processes.pop(each)
                    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    requests.send(pickle.dumps((pid, status)))
            if requests not in ready:
                continue
            data, fds, _, _ = socket.recv_fds(requests, REQUEST_SIZE, 3)
            if not data:
                return
            pid = os.fork()
            if pid == 0:
                requests.detach()
                break
            for each in fds:
                os.close(each)
            processes[os.pidfd_open(pid)] = pid
            requests.send(pickle.dumps((pid, None)))
    _run(data, fds)


def _run(data: bytes, fds: list[int]) -> None:
    from lonc.commands.cli import main

    preparation, arguments, command_line, directory, environment = pickle.loads(data)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = command_line
    if preparation is not None:
        preparation(*arguments)
    sys.exit(main())
