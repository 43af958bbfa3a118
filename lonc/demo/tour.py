"""The tour: three londs and a lonc on this machine, shown at work step by step."""

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
LATE = "demo4"  # it joins them while lonc runs, under demo3's address
STRANGER, STRANGERS_ADDRESS = "demo5", "127.0.0.5"
CLIENTS = 200
PATIENCE = 10.0  # seconds; what takes longer has failed
DRAIN_TIMEOUT = 2  # seconds; an interrupted tour shall not take long to end
LONC = [sys.executable, "-c", "import sys; from lonc.commands.cli import main; sys.exit(main())"]


class StepFailed(Exception):
    """What was promised did not happen."""


def main() -> int:
    """Run the tour; 0 only if all of it held. Nothing is left behind, however it ends."""
    signal.signal(signal.SIGTERM, _interrupt)
    begun = time.monotonic()
    try:
        with ExitStack() as stack:
            with _undisturbed():
                directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="lonc-demo-"))
            try:
                for step in Tour(Path(directory), stack).steps():
                    before = time.monotonic()
                    said = step()
                    print(f"{time.monotonic() - before:7.3f} s  {said}", flush=True)
            finally:
                for signum in (signal.SIGINT, signal.SIGTERM):  # clearing up is not disturbed
                    signal.signal(signum, signal.SIG_IGN)
    except StepFailed as failure:
        print(f"lonc: that failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nlonc: interrupted; everything is ended and removed", file=sys.stderr)
        return 128 + signal.SIGINT
    print(f"{time.monotonic() - begun:7.3f} s  in all; every step held, and nothing is left behind")
    return 0


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _undisturbed() -> Iterator[None]:
    """What is made in here is sure to be undone: an interruption waits until both are settled."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Tour:
    """Each step does something real, checks the outcome, and returns what it has seen."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._configuration = directory / "loncapa.conf"
        self._settings = Settings()
        self._port = 0  # of all londs

    def steps(self) -> list[Callable[[], str]]:
        return [
            self.start_londs,
            self.start_lonc,
            self.ping_each,
            self.log_in_encrypted,
            self.log_in_in_clear,
            self.put_and_get,
            self.send_a_mebibyte,
            self.ask_all_at_once,
            self.kill_a_child,
            self.reload,
            self.show_status,
            self.agree_in_tls,
            self.meet_a_stranger,
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
        with _undisturbed():
            self._stack.callback(self._call, "stop")
            said = self._lonc("start")
        return f"{said}: a child for each of them serves"

    def ping_each(self) -> str:
        answers = [self._ask("ping", host).decode() for host in ADDRESSES]
        _check(answers == list(ADDRESSES), f"ping was answered with {answers}")
        return f"ping: {', '.join(answers)} answer with their names"

    def log_in_encrypted(self) -> str:
        self._expect("put:demo:student:passwd:password=secret", "ok")
        self._expect("encrypt:auth:demo:student:secret", "authorized")
        self._expect("encrypt:auth:demo:student:guess", "non_authorized")
        return "a login that travels encrypted: authorized; with a wrong password: non_authorized"

    def log_in_in_clear(self) -> str:
        self._expect("auth:demo:student:secret", "refused")
        return "the same login in clear: refused"

    def put_and_get(self) -> str:
        with self._connect("demo2") as one, self._connect("demo2") as other:
            one.sendall(b"put:demo:student:grades:homework=17\n")
            _check(_line(one) == b"ok", "a value was not put")
            other.sendall(b"get:demo:student:grades:homework\n")
            _check(_line(other) == b"17", "the value that was put did not come back")
        return "a value put through one connection, and got through another: 17"

    def send_a_mebibyte(self) -> str:
        text = os.urandom(1 << 19).hex().encode()
        _check(self._ask(b"echo:" + text, "demo1") == text, "a mebibyte did not come back whole")
        return "1 MiB there and back, every byte of it"

    def ask_all_at_once(self) -> str:
        with ExitStack() as stack:
            clients = [stack.enter_context(self._connect("demo3")) for _ in range(CLIENTS)]
            for number, client in enumerate(clients):
                client.sendall(b"echo:the reply of %d\n" % number)
            for number, client in enumerate(clients):
                reply = _line(client)
                _check(reply == b"the reply of %d" % number, f"client {number} was told {reply!r}")
        most = int(self._ask("connections", "demo3").split(b":")[1])
        _check(most <= self._settings.max_connections, f"lond counted {most} connections")
        return f"{CLIENTS} clients at once, each got its own reply, over {most} connections to lond"

    def kill_a_child(self) -> str:
        before = self._status("demo1")["pid"]
        os.kill(before, signal.SIGKILL)
        self._expect("ping", "demo1")
        after = self._status("demo1")["pid"]
        _check(before != after, "the killed child answered")
        return f"the child of demo1, process {before}, killed: {after} serves in its place"

    def reload(self) -> str:
        with ExitStack() as stack:
            clients = [stack.enter_context(self._connect(host)) for host in ADDRESSES for _ in range(50)]
            before = [self._status(host)["pid"] for host in ADDRESSES]
            self._write_table({**ADDRESSES, LATE: ADDRESSES["demo3"]})
            said = self._lonc("reload")
            _check(before != [self._status(host)["pid"] for host in ADDRESSES], "no child was replaced")
            for number, client in enumerate(clients):
                client.sendall(b"echo:still %d\n" % number)
            for number, client in enumerate(clients):
                _check(_line(client) == b"still %d" % number, f"client {number} has noticed")
        self._expect("ping", "demo3", LATE)
        return f"{said}; of {len(clients)} connected clients none has noticed"

    def show_status(self) -> str:
        said = self._lonc("status")
        _check(said.count(" ready ") == len(ADDRESSES) + 1, f"not every host is ready:\n{said}")
        return said.replace("\n", "\n           ")

    def agree_in_tls(self) -> str:
        self._write_table(ADDRESSES)
        self._configure(self._configuration, self._directory, "PerlSetVar loncKeyMode ssl\n")
        self._lonc("reload")
        for host in ADDRESSES:
            self._expect("ping", host, host)
            _check(self._status(host)["mode"] == "ssl", f"the key of {host} was not said in TLS")
        self._expect("encrypt:auth:demo:student:secret", "authorized")
        return "loncKeyMode ssl, with an authority made on the spot: keys are said in TLS, none in clear"

    def meet_a_stranger(self) -> str:
        place = self._directory / "stranger"
        place.mkdir()
        self._certify(Authority("another one"), place)
        self._write_table({STRANGER: STRANGERS_ADDRESS})
        self._configure(configuration := place / "loncapa.conf", place)
        self._start_lond(STRANGER, configuration)
        self._write_table({**ADDRESSES, STRANGER: STRANGERS_ADDRESS})
        self._lonc("update")
        _check(self._ask("ping", STRANGER, may_be_lost=True) == lonnet.CON_LOST, "a stranger answered")
        why = self._status(STRANGER)["last_error"][1]
        _check("its certificate is of another authority" in why, f"a stranger was refused for: {why}")
        return f"a lond with a certificate of another authority gets nothing: {why}"

    def stop_lonc(self) -> str:
        said = self._lonc("stop")
        left = [each for each in self._settings.socket_directory.iterdir() if each.is_socket()]
        _check(not left, f"sockets are left: {left}")
        return f"{said}, and its sockets are gone"

    def _certify(self, authority: Authority, place: Path) -> None:
        """One certificate is for all, since all are this machine."""
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
        """What a command has said; it must have been content."""
        done = self._call(command)
        _check(done.returncode == 0, f"lonc {command}: {done.stderr}")
        return done.stdout.rstrip()

    def _call(self, command: str) -> subprocess.CompletedProcess[str]:
        """In a session of its own, since Ctrl-C is for the tour, which then ends it."""
        arguments = [*LONC, "-c", str(self._configuration), command]
        return subprocess.run(arguments, capture_output=True, text=True, start_new_session=True)

    def _start_lond(self, host: str, configuration: Path) -> None:
        """It goes on behind us, in a session of its own too."""
        command = [*LONC, "-c", str(configuration), "lond", host]
        with _undisturbed():
            lond = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
            self._stack.callback(_end, lond)
        assert lond.stdout is not None
        self._stack.callback(lond.stdout.close)
        _check(b"listens" in lond.stdout.readline(), f"the lond of {host} does not start")

    def _connect(self, host: str) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(PATIENCE)
        client.connect(str(self._settings.socket_directory / host))
        return client

    def _ask(self, request: str | bytes, host: str, may_be_lost: bool = False) -> bytes:
        reply = lonnet.reply(request, host, timeout=PATIENCE, settings=self._settings)
        _check(
            may_be_lost or reply != lonnet.CON_LOST, f"{host} has lost the connection:\n{self._log()}"
        )
        return reply

    def _log(self) -> str:
        return self._settings.log_file.read_text()

    def _expect(self, request: str, reply: str, host: str = "demo1") -> None:
        got = self._ask(request, host).decode(errors="replace")
        _check(got == reply, f"{request} was answered with {got}, not {reply}")

    def _status(self, host: str) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self._ask("lonc:status", host))
        return status


def _check(holds: bool, failure: str) -> None:
    if not holds:
        raise StepFailed(failure)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _line(client: socket.socket) -> bytes:
    """The line that comes next, without its newline."""
    received = b""
    while not received.endswith(b"\n"):
        data = client.recv(65536)
        _check(bool(data), "lonc closed a connection")
        received += data
    return received[:-1]


def _free_port() -> int:
    """A port that is free at all the addresses."""
    for _ in range(100):
        with ExitStack() as stack:
            port = 0
            try:
                for address in (*ADDRESSES.values(), STRANGERS_ADDRESS):
                    probe = stack.enter_context(socket.socket())
                    probe.bind((address, port))
                    port = probe.getsockname()[1]
            except OSError:
                continue
            return int(port)
    raise StepFailed("no port is free at all of the addresses")
