"""A process that plays the daemon: it holds the locks and answers orders as a test wants."""

import contextlib
import signal
import socket
import subprocess
import time

from support.machine import python_calling

from lonc.configuration_file import read_settings
from lonc.runtime.lock_file import LockFile


def play(configuration, answer, size, pause):
    """Hold the locks, and answer every order with `answer`, again and again up to `size` bytes.

    `pause`: seconds between two pieces. Nothing but KILL ends the process.
    """
    settings = read_settings(configuration)[0]
    settings.log_directory.mkdir(parents=True, exist_ok=True)
    settings.socket_directory.mkdir(parents=True, exist_ok=True)
    locks = LockFile(settings.socket_lock), LockFile(settings.lock_file)
    locks[1].write(b"1\n")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(settings.control_file))
        listening.listen()
        print("plays", flush=True)
        while True:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(1000)
                sent = 0
                while sent < size:
                    connection.sendall(answer)
                    sent += len(answer)
                    time.sleep(pause)
                while connection.recv(1000):
                    pass


@contextlib.contextmanager
def false_daemon(machine, answer, size=1, pause=0.0):
    """The process that plays, of that configuration."""
    command = python_calling(play, machine.configuration, answer, size, pause)
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"plays\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        machine.settings().control_file.unlink(missing_ok=True)
