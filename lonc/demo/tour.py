"""`lonc demo`: run three londs and a daemon on this machine, and check what lonc does step by step."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lonc import lonnet
from lonc.configuration import Settings
from lonc.configuration_file import read_settings
from lonc.demo.certificate_authority import Authority

ADDRESSES = {"demo1": "127.0.0.2", "demo2": "127.0.0.3", "demo3": "127.0.0.4"}
ADDED = "demo4"  # added to the table while lonc runs, with the address of demo3
UNTRUSTED, UNTRUSTED_ADDRESS = "demo5", "127.0.0.5"
CLIENTS = 200
TIMEOUT = 10.0  # seconds for a reply, and for a lond to end
DRAIN_TIMEOUT = 2  # seconds; an interrupted tour has to end soon
LONC = [sys.executable, "-c", "import sys; from lonc.commands.cli import main; sys.exit(main())"]


class StepFailed(Exception):
    """A step of the tour did not have the expected result; the message says how."""


def main() -> int:
    """Run the tour and print a line per step. All processes and files are removed, however it ends.

    Returns 0 if every step succeeded, 1 if one failed, 130 after SIGINT or SIGTERM.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    started_at = time.monotonic()
    try:
        with ExitStack() as stack:
            with _interrupts_deferred():
                directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="lonc-demo-"))
            try:
                for step in Tour(Path(directory), stack).steps():
                    step_started_at = time.monotonic()
                    result = step()
                    print(f"{time.monotonic() - step_started_at:7.3f} s  {result}", flush=True)
            finally:
                for signum in (signal.SIGINT, signal.SIGTERM):  # the cleanup must not be interrupted
                    signal.signal(signum, signal.SIG_IGN)
    except StepFailed as failure:
        print(f"lonc: the demonstration failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlonc: interrupted; all processes are ended and all files removed", file=sys.stderr)
        return 128 + signal.SIGINT
    print(
        f"{time.monotonic() - started_at:7.3f} s  in all: every step succeeded; nothing is left behind"
    )
    return 0


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Block SIGINT and SIGTERM, so that a resource is created and its cleanup registered, or neither."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Tour:
    """The steps: each checks its own result, and returns the sentence to print or raises StepFailed.

    `directory` is for all files; `stack` gets the cleanup of every process.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._configuration = directory / "loncapa.conf"
        self._settings = Settings()
        self._port = 0  # of every lond

    def steps(self) -> list[Callable[[], str]]:
        return [
            self.start_londs,
            self.start_lonc,
            self.ping_each,
            self.log_in_encrypted,
            self.log_in_in_clear,
            self.put_and_get,
            self.send_a_mebibyte,
            self.send_from_many_clients,
            self.kill_a_child,
            self.reload,
            self.show_status,
            self.exchange_keys_in_tls,
            self.reject_an_untrusted_lond,
            self.stop_lonc,
        ]

    def start_londs(self) -> str:
        self._port = port = _free_port()
        self._certify(Authority("the demo"), self._directory)
        self._configure(self._configuration, self._directory)
        self._write_table(ADDRESSES)
        self._settings, faults = read_settings(self._configuration)
        _check(not faults, f"the configuration has faults: {faults}")
        for host in ADDRESSES:
            self._start_lond(host, self._configuration)
        return f"{len(ADDRESSES)} londs listen at {', '.join(ADDRESSES.values())}, port {port}"

    def start_lonc(self) -> str:
        with _interrupts_deferred():
            self._stack.callback(self._call, "stop")
            output = self._lonc("start")
        return f"{output}; one child serves each host"

    def ping_each(self) -> str:
        replies = [self._ask("ping", host).decode() for host in ADDRESSES]
        _check(replies == list(ADDRESSES), f"the replies to ping are {replies}")
        return f"ping: {', '.join(replies)} reply with their host ids"

    def log_in_encrypted(self) -> str:
        self._expect("put:demo:student:passwd:password=secret", "ok")
        self._expect("encrypt:auth:demo:student:secret", "authorized")
        self._expect("encrypt:auth:demo:student:guess", "non_authorized")
        return "auth, sent encrypted: authorized; with a wrong password: non_authorized"

    def log_in_in_clear(self) -> str:
        self._expect("auth:demo:student:secret", "refused")
        return "the same auth, sent in clear: refused"

    def put_and_get(self) -> str:
        with self._connect("demo2") as one, self._connect("demo2") as other:
            one.sendall(b"put:demo:student:grades:homework=17\n")
            _check(_receive_line(one) == b"ok", "put was not answered with ok")
            other.sendall(b"get:demo:student:grades:homework\n")
            _check(_receive_line(other) == b"17", "get did not return the stored value")
        return "a value stored by one client and read by another: 17"

    def send_a_mebibyte(self) -> str:
        text = os.urandom(1 << 19).hex().encode()
        _check(
            self._ask(b"echo:" + text, "demo1") == text,
            "the reply differs from the mebibyte that was sent",
        )
        return "echo of 1 MiB: the reply is the same, byte for byte"

    def send_from_many_clients(self) -> str:
        with ExitStack() as stack:
            clients = [stack.enter_context(self._connect("demo3")) for _ in range(CLIENTS)]
            for number, client in enumerate(clients):
                client.sendall(b"echo:the reply of %d\n" % number)
            for number, client in enumerate(clients):
                reply = _receive_line(client)
                _check(reply == b"the reply of %d" % number, f"client {number} received {reply!r}")
        most = int(self._ask("connections", "demo3").split(b":")[1])
        _check(most <= self._settings.max_connections, f"lond counted {most} connections")
        return f"{CLIENTS} clients at once: each received its own reply, over {most} connections to lond"

    def kill_a_child(self) -> str:
        before = self._status("demo1")["pid"]
        os.kill(before, signal.SIGKILL)
        self._expect("ping", "demo1")
        after = self._status("demo1")["pid"]
        _check(before != after, "the child was not replaced")
        return f"the child of demo1, pid {before}, was killed: pid {after} has replaced it"

    def reload(self) -> str:
        with ExitStack() as stack:
            clients = [stack.enter_context(self._connect(host)) for host in ADDRESSES for _ in range(50)]
            before = [self._status(host)["pid"] for host in ADDRESSES]
            self._write_table({**ADDRESSES, ADDED: ADDRESSES["demo3"]})
            output = self._lonc("reload")
            _check(before != [self._status(host)["pid"] for host in ADDRESSES], "no child was replaced")
            for number, client in enumerate(clients):
                client.sendall(b"echo:still %d\n" % number)
            for number, client in enumerate(clients):
                _check(
                    _receive_line(client) == b"still %d" % number, f"client {number} got a wrong reply"
                )
        self._expect("ping", "demo3", ADDED)
        return f"{output}; {len(clients)} clients stayed connected and got their replies"

    def show_status(self) -> str:
        output = self._lonc("status")
        _check(output.count(" ready ") == len(ADDRESSES) + 1, f"not every host is ready:\n{output}")
        return output.replace("\n", "\n           ")

    def exchange_keys_in_tls(self) -> str:
        self._write_table(ADDRESSES)
        self._configure(self._configuration, self._directory, "PerlSetVar loncKeyMode ssl\n")
        self._lonc("reload")
        for host in ADDRESSES:
            self._expect("ping", host, host)
            _check(self._status(host)["mode"] == "ssl", f"the key of {host} was not exchanged in TLS")
        self._expect("encrypt:auth:demo:student:secret", "authorized")
        return "loncKeyMode ssl, with a temporary certificate authority: every key is exchanged in TLS"

    def reject_an_untrusted_lond(self) -> str:
        place = self._directory / "untrusted"
        place.mkdir()
        self._certify(Authority("another authority"), place)
        self._write_table({UNTRUSTED: UNTRUSTED_ADDRESS})
        self._configure(configuration := place / "loncapa.conf", place)
        self._start_lond(UNTRUSTED, configuration)
        self._write_table({**ADDRESSES, UNTRUSTED: UNTRUSTED_ADDRESS})
        self._lonc("update")
        _check(
            self._ask("ping", UNTRUSTED, con_lost_allowed=True) == lonnet.CON_LOST,
            "a lond of another authority was accepted",
        )
        error = self._status(UNTRUSTED)["last_error"][1]
        _check("its certificate is of another authority" in error, f"the error is: {error}")
        return f"a lond with a certificate of another authority is rejected: {error}"

    def stop_lonc(self) -> str:
        output = self._lonc("stop")
        left = [each for each in self._settings.socket_directory.iterdir() if each.is_socket()]
        _check(not left, f"sockets are left: {left}")
        return f"{output}; its sockets are removed"

    def _certify(self, authority: Authority, place: Path) -> None:
        """Issue one certificate for the daemon and all londs: all are `localhost` in the table."""
        authority.write(place / "authority.pem")
        authority.issue("localhost", place / "certificate.pem", place / "key.pem")

    def _configure(self, file: Path, certificates: Path, more: str = "") -> None:
        file.write_text(
            "PerlSetVar lonHostID demo0\n"
            "PerlSetVar loncBindAddress 127.0.0.1\n"
            f"PerlSetVar lonTabDir {self._directory}\n"
            f"PerlSetVar lonDaemons {self._directory}\n"
            f"PerlSetVar lonSockDir {self._directory / 'sockets'}\n"
            f"PerlSetVar londPort {self._port}\n"
            f"PerlSetVar loncDrainTimeout {DRAIN_TIMEOUT}\n"
            f"PerlSetVar lonCertificateDirectory {certificates}\n"
            "PerlSetVar lonnetCertificate certificate.pem\n"
            "PerlSetVar lonnetPrivateKey key.pem\n"
            f"PerlSetVar lonnetCertificateAuthority authority.pem\n{more}"
        )

    def _write_table(self, addresses: Mapping[str, str]) -> None:
        rows = [f"{host}:demo:library:localhost:{address}\n" for host, address in addresses.items()]
        (self._directory / "hosts.tab").write_text("".join(rows))

    def _lonc(self, command: str) -> str:
        """Return the output of a command that must succeed."""
        done = self._call(command)
        _check(done.returncode == 0, f"lonc {command}: {done.stderr}")
        return done.stdout.rstrip()

    def _call(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a session of its own: Ctrl-C must reach only the tour, which stops lonc."""
        arguments = [*LONC, "-c", str(self._configuration), command]
        return subprocess.run(arguments, capture_output=True, text=True, start_new_session=True)

    def _start_lond(self, host: str, configuration: Path) -> None:
        """Start a lond in the background, in a session of its own for the same reason."""
        command = [*LONC, "-c", str(configuration), "lond", host]
        with _interrupts_deferred():
            lond = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
            self._stack.callback(_end, lond)
        assert lond.stdout is not None
        self._stack.callback(lond.stdout.close)
        _check(b"listens" in lond.stdout.readline(), f"the lond of {host} does not start")

    def _connect(self, host: str) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(TIMEOUT)
        client.connect(str(self._settings.socket_directory / host))
        return client

    def _ask(self, request: str | bytes, host: str, con_lost_allowed: bool = False) -> bytes:
        reply = lonnet.reply(request, host, timeout=TIMEOUT, settings=self._settings)
        _check(con_lost_allowed or reply != lonnet.CON_LOST, f"con_lost from {host}:\n{self._log()}")
        return reply

    def _log(self) -> str:
        return self._settings.log_file.read_text()

    def _expect(self, request: str, reply: str, host: str = "demo1") -> None:
        actual = self._ask(request, host).decode(errors="replace")
        _check(actual == reply, f"the reply to {request} is {actual}, not {reply}")

    def _status(self, host: str) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self._ask("lonc:status", host))
        return status


def _check(holds: bool, failure: str) -> None:
    if not holds:
        raise StepFailed(failure)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _receive_line(client: socket.socket) -> bytes:
    """Return the next line from lonc, without its newline."""
    received = b""
    while not received.endswith(b"\n"):
        data = client.recv(65536)
        _check(bool(data), "lonc closed a client's connection")
        received += data
    return received[:-1]


def _free_port() -> int:
    """Return a port that is free at all the addresses. Raises StepFailed."""
    for _ in range(100):
        with ExitStack() as stack:
            port = 0
            try:
                for address in (*ADDRESSES.values(), UNTRUSTED_ADDRESS):
                    probe = stack.enter_context(socket.socket())
                    probe.bind((address, port))
                    port = probe.getsockname()[1]
            except OSError:
                continue
            return int(port)
    raise StepFailed("no port is free at all the addresses")
