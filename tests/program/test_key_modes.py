"""The whole program with every value of loncKeyMode."""

import os
import signal
from datetime import timedelta

import pytest
from support.certificates import Office, settings_for
from support.machine import eventually, free_port, title
from support.scripted_lond import BUILD_KEY, ScriptedLond

from lonc.wire.cipher import LineCipher, shared_key
from lonc.wire.key_exchange import KEY_FILE
from lonc.wire.tls import Tunnel, server_context

KEY = b"0123456789abcdef" * 2
QUICK = {"loncRetryDelay": "0.1", "loncRetryMaxDelay": "0.2"}


@pytest.fixture(scope="module")
def office(tmp_path_factory):
    return Office(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def certified(office):
    """lonc and lond have certificates for their names in the table."""
    return settings_for(office.issue("l1.example.org"))


def serve_at_localhost(machine):
    machine.port = free_port("127.0.0.1")
    machine.table.write_text("l1:dom:library:l1.example.org:127.0.0.1\n")


@pytest.mark.parametrize(
    ("mode", "at_localhost", "comes_to"),
    [
        ("classic", False, "classic"),
        ("insecure", False, "insecure"),
        ("local", True, "local"),
        ("ssl", False, "ssl"),
        ("ssl", True, "ssl"),
        ("auto", True, "local"),
        ("auto", False, "ssl"),
    ],
)
def test_a_request_enciphered_and_in_clear(machine, certified, mode, at_localhost, comes_to):
    if at_localhost:
        serve_at_localhost(machine)
    machine.configure(loncKeyMode=mode, **certified)
    machine.start_lond("l1")
    machine.run()
    assert machine.ask(b"put:d:u:passwd:password=pw") == b"ok"
    assert machine.ask(b"encrypt:auth:d:u:pw") == b"authorized"
    assert machine.ask(b"auth:d:u:pw") == b"refused"
    status = machine.status()
    assert status["mode"] == comes_to
    assert (status.get("lond_version") is None) == (comes_to == "classic")
    words = {"classic": ""}.get(comes_to, f" ({comes_to})")
    assert title(machine.children()["l1"]) == f"lonc: l1 Connection count: 1 Retries remaining: 2{words}"
    assert machine.socket_files() == ["l1"]  # no key file is left
    with_lond = "" if comes_to == "classic" else ", with lond "
    said = machine.command("status", "l1").stdout.decode()
    assert f"last key exchange: mode {comes_to}{with_lond}" in said


def test_auto_without_certificates_is_insecure_and_the_log_warns_of_it(machine):
    machine.configure(loncKeyMode="auto")
    machine.start_lond("l1")
    machine.run()
    assert machine.ask(b"ping") == b"l1"
    assert machine.status()["mode"] == "insecure"
    assert machine.log().count("WARNING") == 1
    assert "keys are exchanged in mode insecure (of auto), with lond" in machine.log()


def test_a_lond_without_certificates_is_spoken_to_as_an_old_one_is(machine, certified):
    machine.start_lond("l1")
    machine.configure(loncKeyMode="ssl", **certified)
    machine.run()
    assert machine.ask(b"ping") == b"l1"
    assert machine.status()["mode"] == "insecure"
    assert "WARNING" in machine.log()


def test_an_old_lond_where_insecure_is_not_allowed_is_a_dead_host(machine, certified):
    machine.start_lond("l1")
    machine.configure(loncKeyMode="ssl", loncAllowInsecure=0, **QUICK, **certified)
    machine.run()
    assert machine.ask(b"ping") == b"con_lost"
    assert machine.status()["last_error"][1] == (
        "an attempt failed: lond knows only the insecure dialogue, and loncAllowInsecure is 0"
    )


@pytest.mark.parametrize(
    ("issued", "sentence"),
    [
        ({"ours": False}, "its certificate is of another authority"),
        ({"until": -timedelta(days=1)}, "its certificate has expired"),
        ({"host": "l2.example.org"}, "its certificate is not for l1.example.org"),
    ],
)
def test_a_lond_whose_certificate_does_not_do(machine, office, certified, issued, sentence):
    machine.configure(**settings_for(office.issue(**{"host": "l1.example.org", **issued})))
    lond = machine.start_lond("l1")
    machine.configure(loncKeyMode="ssl", **QUICK, **certified)
    machine.run()
    assert machine.ask(b"ping") == b"con_lost"
    assert machine.status()["last_error"][1] == f"an attempt failed: {sentence}"
    assert "mode" not in machine.status()
    assert b": it does not accept our certificate: " in lond.stdout.readline()


def test_a_lond_that_does_not_accept_ours(machine, office, certified):
    machine.configure(**certified)
    machine.start_lond("l1")
    others = office.issue("a1.example.org", ours=False)
    machine.configure(loncKeyMode="ssl", **QUICK, **settings_for(others))
    machine.run()
    assert machine.ask(b"ping") == b"con_lost"
    assert "it does not accept our certificate: unknown ca" in machine.status()["last_error"][1]


def test_a_certificate_that_expires_soon_is_told_by_all_who_say_whether_all_is_well(machine, office):
    for days, level, expiry in ((40, 0, None), (13, 1, "expires in 13 d"), (2, 2, "expires in 2 d")):
        until = timedelta(days=days, hours=1)
        machine.configure(loncKeyMode="ssl", **settings_for(office.issue("l1.example.org", until=until)))
        if machine.lonc is None:
            machine.start_lond("l1")
            machine.start()
        else:
            assert machine.command("reload").returncode == 0
        assert machine.ask(b"ping") == b"l1"
        checked = machine.command("check").stdout.decode()
        shown = machine.command("status").stdout.decode()
        judged = machine.command("check-health")
        assert judged.returncode == level
        for said in (checked, shown, judged.stdout.decode()):
            assert f"our certificate {expiry}" in said if expiry else "our certificate" not in said


def test_a_reload_that_is_refused_leaves_the_certificate_of_whoever_serves(machine, office):
    def configure(days):
        until = timedelta(days=days, hours=1)
        machine.configure(loncKeyMode="ssl", **settings_for(office.issue("l1.example.org", until=until)))

    configure(13)
    machine.start()
    configure(40)
    (machine.sockets / "l2").mkdir()
    machine.hosts("l1", "l2")
    assert machine.command("reload").returncode == 1
    assert "our certificate expires in 13 d" in machine.command("status").stdout.decode()
    (machine.sockets / "l2").rmdir()
    assert machine.command("reload").returncode == 0
    assert "our certificate" not in machine.command("status").stdout.decode()


@pytest.mark.parametrize(
    ("settings", "doubt"),
    [
        ({"loncKeyMode": "local"}, "loncKeyMode is local, and these are not at 127.0.0.1: l1"),
        (
            {"loncKeyMode": "auto", "loncAllowInsecure": 0},
            "without certificates and loncAllowInsecure only 127.0.0.1",
        ),
        ({"loncKeyMode": "auto"}, None),
        ({"lonnetCertificate": "c.pem"}, None),
    ],
)
def test_check_doubts_a_mode_that_can_hardly_do_what_is_expected(machine, settings, doubt):
    machine.configure(**settings)
    said = machine.command("check").stdout.decode()
    warnings = [line for line in said.splitlines() if ": warning: " in line and "loncUser" not in line]
    assert [f": warning: {doubt}" in line for line in warnings] == ([True] if doubt else [])


class TestFilesThatOthersCanRead:
    def test_a_private_key_keeps_lonc_from_starting(self, machine, office):
        files = office.issue("open.example.org")
        files.private_key.chmod(0o644)
        machine.configure(loncKeyMode="ssl", **settings_for(files))
        sentence = f"{files.private_key} (lonnetPrivateKey) can be read by others, mode 0644"
        for command in ("start", "run"):
            done = machine.command(command)
            assert done.returncode == 1
            assert sentence in done.stderr.decode()
        assert f"it will not start: {sentence}" in machine.command("check").stdout.decode()

    def test_a_reload_with_one_changes_nothing(self, machine, office, certified):
        machine.configure(loncKeyMode="ssl", **certified)
        machine.start_lond("l1")
        machine.start()
        before = machine.children()
        files = office.issue("also-open.example.org")
        files.private_key.chmod(0o604)
        machine.configure(loncKeyMode="ssl", **settings_for(files))
        done = machine.command("reload")
        assert done.returncode == 1
        assert "can be read by others, mode 0604" in done.stderr.decode()
        assert machine.children() == before


class TestAWrongKey:
    """lond takes this machine for a2, so its key is another one."""

    ADVICE = "the key does not fit: lond may know this host under another id; try loncKeyMode insecure"

    def lond(self, machine, answer):
        """Deciphers a request and answers it in the way `answer(deciphered)` says."""
        cipher = LineCipher(shared_key("l1", "a2", BUILD_KEY + b"\n"))

        def script(peer):
            peer.greet()
            while (line := peer.hear()) is not None:
                if line.startswith(b"enc:"):
                    line = answer(cipher, bytes(cipher.decipher(line + b"\n")))
                peer.say(line)

        return ScriptedLond(machine.address(1), machine.port, script)

    def ask_on_three_connections(self, machine):
        for _ in range(3):
            machine.ask(b"encrypt:eget:dom:user:passwd:password")
            machine.ask(b"encrypt:eget:dom:user:passwd:password")
            assert machine.ask(b"ping") == b"ping"
            assert machine.command("disable", "l1").returncode == 0
            assert machine.command("enable", "l1").returncode == 0

    @pytest.mark.parametrize(
        ("answer", "sign"),
        [
            (
                lambda cipher, request: bytes(cipher.encipher(b"the password is hush"))[:-1],
                "a reply is no text when it is deciphered",
            ),
            (
                lambda cipher, request: b"unknown_cmd" if b"eget" not in request else b"ok",
                "lond answered an enciphered request with unknown_cmd (or does not know that command)",
            ),
        ],
    )
    def test_is_logged_once_and_counted_by_connection(self, machine, answer, sign):
        machine.configure(loncMaxConnections=1)
        with self.lond(machine, answer):
            machine.run()
            self.ask_on_three_connections(machine)
            assert machine.log().count("the key does not fit") == 1
            assert f"WARNING {machine.children()['l1']} l1: {sign}: {self.ADVICE}\n" in machine.log()
            assert machine.status()["wrong_keys"] == 3
            judged = machine.command("check-health")
            assert judged.returncode == 1
            assert b"l1 has had connections whose key did not fit in the last hour: 3" in judged.stdout
            shown = machine.command("status", "l1").stdout.decode()
            assert "l1: connections whose key did not fit in the last hour: 3" in shown
            machine.stop()

    def test_is_not_seen_in_a_right_one(self, machine):
        machine.start_lond("l1")
        machine.run()
        assert machine.ask(b"encrypt:echo:x") == b"x"
        assert machine.ask(b"encrypt:nonsense") == b"unknown_cmd"  # enciphered
        assert machine.status()["wrong_keys"] == 0
        assert "key" not in machine.log()


@pytest.fixture
def replying_in_clear(machine):
    def script(peer):
        peer.hear()
        for answer in (b"12345", b"ok", b"2.11", b"ok", BUILD_KEY):
            peer.say(answer)
            peer.hear()
        while True:
            peer.say(b"authorized")
            if peer.hear() is None:
                return

    def script_in_classic(peer):
        peer.greet()
        while peer.hear() is not None:
            peer.say(b"authorized")

    def start(**settings):
        machine.configure(**{"loncMaxConnections": 1, **QUICK, **settings})
        classic = settings["loncKeyMode"] == "classic"
        return ScriptedLond(machine.address(1), machine.port, script_in_classic if classic else script)

    return start


def test_a_reply_in_clear_to_an_enciphered_request_ends_the_connection(machine, replying_in_clear):
    with replying_in_clear(loncKeyMode="insecure") as lond:
        machine.run()
        for _ in range(5):
            assert machine.ask(b"encrypt:auth:dom:user:pw") == b"con_lost"
        status = machine.status()
        assert status["last_error"][1] == (
            "lost a connection: lond answered an enciphered request in clear (see loncAllowPlainReplies)"
        )
        assert status["state"] in ("ready", "connecting")  # lond has replied: it is not DEAD
        assert lond.accepted >= 5
        machine.stop()


@pytest.mark.parametrize(
    "settings",
    [
        {"loncKeyMode": "classic"},
        {"loncKeyMode": "insecure", "loncAllowPlainReplies": 1},
    ],
)
def test_a_reply_in_clear_is_passed_on_in_classic_and_where_that_is_allowed(
    machine, replying_in_clear, settings
):
    with replying_in_clear(**settings) as lond:
        machine.run()
        assert [machine.ask(b"encrypt:auth:dom:user:pw") for _ in range(3)] == [b"authorized"] * 3
        assert lond.accepted == 1
        machine.stop()


def test_key_files_of_a_daemon_that_was_killed_are_removed_by_the_next(machine):
    serve_at_localhost(machine)

    def silent(peer):
        peer.hear()
        peer.hear()

    machine.configure(loncKeyMode="local")
    with ScriptedLond("127.0.0.1", machine.port, silent):
        machine.start()
        eventually(lambda: [name for name in machine.socket_files() if name.startswith(KEY_FILE)])
        machine.lonc.send_signal(signal.SIGKILL)
        machine.lonc.wait()
        left = [name for name in machine.socket_files() if name.startswith(KEY_FILE)]
        assert len(left) == 1
        machine.start()
        assert left[0] not in machine.socket_files()


class TestThisMachine:
    """The host whose id is lonHostID, and which has a second id at the same DNS name."""

    @pytest.fixture
    def machine(self, machine):
        machine.port = free_port("127.0.0.1")
        machine.table.write_text(
            f"a1:dom:access:a1.example.org:{machine.address(2)}\na2:dom:library:a1.example.org\n"
            f"l1:dom:library:l1.example.org:{machine.address(1)}\n"
        )
        return machine

    @pytest.mark.parametrize("mode", ["insecure", "auto", "local"])
    @pytest.mark.parametrize("socket_name", ["id", "dns"])
    def test_is_asked_at_127_0_0_1_in_local_mode(self, machine, mode, socket_name):
        # lond at that address would not know us by a bound address.
        machine.configure(
            loncKeyMode=mode, loncSocketName=socket_name, loncBindAddress=machine.address(9)
        )
        assert machine.start_lond("a1") is not None
        if mode != "local":
            machine.start_lond("l1")
        machine.run()
        name = {"id": "a1", "dns": "a1.example.org"}[socket_name]
        assert machine.ask(b"encrypt:ping", name) == b"a1"
        assert machine.status(name)["mode"] == "local"
        other = {"id": "l1", "dns": "l1.example.org"}[socket_name]
        if mode != "local":
            assert machine.ask(b"ping", other) == b"l1"
            assert machine.status(other)["mode"] == "insecure"

    @pytest.mark.parametrize(("mode", "comes_to"), [("classic", "classic"), ("ssl", "ssl")])
    def test_is_a_host_like_any_other_in_the_other_modes(self, machine, certified, mode, comes_to):
        machine.table.write_text(f"a1:dom:access:l1.example.org:{machine.address(2)}\n")
        machine.configure(loncKeyMode=mode, **certified)
        machine.start_lond("a1")
        machine.run()
        assert machine.ask(b"ping", "a1") == b"a1"
        assert machine.status("a1")["mode"] == comes_to

    def test_is_no_doubt_of_check(self, machine):
        machine.table.write_text(f"a1:dom:access:a1.example.org:{machine.address(2)}\n")
        machine.configure(loncKeyMode="local")
        assert "not at 127.0.0.1" not in machine.command("check").stdout.decode()


def test_a_name_that_resolves_to_this_machine_makes_no_local_mode(machine):
    machine.table.write_text("l1:dom:library:localhost\n")
    machine.configure(loncKeyMode="auto")
    said = []

    def script(peer):
        said.append(peer.hear())

    with ScriptedLond("127.0.0.1", machine.port, script):
        machine.run()
        machine.ask(b"ping")
    assert said[0].startswith(b"init::")
    assert not any(line.startswith(b"init:local") for line in said if line)


def test_who_cannot_remove_the_key_file_is_not_lond(machine):
    serve_at_localhost(machine)
    heard = []

    def rogue(peer):
        heard.append(peer.hear())
        peer.say(b"ok:local")
        heard.append(peer.hear())

    machine.configure(loncKeyMode="local", **QUICK)
    with ScriptedLond("127.0.0.1", machine.port, rogue):
        machine.run()
        assert machine.ask(b"encrypt:secret") == b"con_lost"
        assert machine.status()["last_error"][1] == (
            "an attempt failed: lond answered ok:local, and has not removed the key file"
        )
        machine.stop()
    assert {line for line in heard if line is None or not line.startswith(b"init:local:")} == {None}
    assert machine.socket_files() == []


def test_the_key_that_lond_has_taken_enciphers(machine):
    serve_at_localhost(machine)
    seen = []

    def taking(peer):
        _, _, file, _ = peer.hear().split(b":")
        with open(file, "rb") as key:
            seen.append(key.read())
        os.unlink(file)
        peer.say(b"ok:local")
        assert peer.hear() == b"version"
        peer.say(b"2.11")
        assert peer.hear() == b"sethost:l1"
        peer.say(b"ok")
        cipher = LineCipher(bytes.fromhex(seen[0].decode()))
        assert bytes(cipher.decipher(peer.hear() + b"\n")) == b"secret"
        peer.say(bytes(cipher.encipher(b"heard")).removesuffix(b"\n"))
        peer.hear()

    machine.configure(loncKeyMode="local")
    with ScriptedLond("127.0.0.1", machine.port, taking):
        machine.run()
        assert machine.ask(b"encrypt:secret") == b"heard"
        assert machine.socket_files() == ["l1"]


@pytest.mark.parametrize("killed", ["child", "daemon"])
def test_what_was_killed_leaves_no_key_file_once_lonc_has_ended(machine, killed):
    serve_at_localhost(machine)
    machine.configure(loncKeyMode="local")
    with ScriptedLond("127.0.0.1", machine.port, lambda peer: peer.hear() and peer.hear()):
        machine.start()
        eventually(lambda: [name for name in machine.socket_files() if name.startswith(KEY_FILE)])
        os.kill(machine.children()["l1"] if killed == "child" else machine.lonc.pid, signal.SIGKILL)
        if killed == "daemon":
            machine.lonc.wait()
        assert machine.command("stop").returncode == 0
    assert machine.socket_files() == []


class Recorder:
    """A proxy between lonc and lond that records all bytes."""

    def __init__(self):
        self.said = bytearray()

    def hear(self, peer):
        line = peer.hear()
        self.said += line + b"\n"
        return line

    def say(self, peer, line):
        self.said += line + b"\n"
        peer.say(line)

    def in_tls(self, context):
        """A script that sends KEY in TLS, and answers one request."""

        def script(peer):
            assert self.hear(peer).startswith(b"init:ssl:")
            self.say(peer, b"ok:ssl")
            tunnel = Tunnel(context, None, KEY)
            clear = b""
            while not clear:
                data = peer.socket.recv(65536)
                if not data:
                    return
                self.said += data
                clear = tunnel.receive(data)
                out = tunnel.data_to_send()
                self.said += out
                peer.socket.sendall(out)
            assert clear == b"version\n"
            self.say(peer, b"2.11")
            assert self.hear(peer) == b"sethost:l1"
            self.say(peer, b"ok")
            self.answer(peer, LineCipher(bytes.fromhex(KEY.decode())))

        return script

    def classic(self, peer):
        for answer in (b"12345", b"ok", BUILD_KEY):
            self.hear(peer)
            self.say(peer, answer)
        self.answer(peer, LineCipher(shared_key("l1", "a1", BUILD_KEY + b"\n")))

    def answer(self, peer, cipher):
        assert bytes(cipher.decipher(self.hear(peer) + b"\n")) == b"secret"
        self.say(peer, bytes(cipher.encipher(b"answer")).removesuffix(b"\n"))
        peer.hear()


def test_in_ssl_mode_the_key_is_not_on_the_wire(machine, office, certified):
    recorder = Recorder()
    context = server_context(office.issue("l1.example.org"))
    machine.configure(loncKeyMode="ssl", **certified)
    with ScriptedLond(machine.address(1), machine.port, recorder.in_tls(context)):
        machine.run()
        assert machine.ask(b"encrypt:secret") == b"answer"
    wire = bytes(recorder.said)
    assert b"enc:6:" in wire  # the recording is complete
    for form in (KEY, KEY.upper(), bytes.fromhex(KEY.decode())):
        assert form not in wire
    assert b"secret" not in wire


def test_in_classic_mode_whoever_reads_the_wire_has_the_key(machine):
    recorder = Recorder()
    with ScriptedLond(machine.address(1), machine.port, recorder.classic):
        machine.run()
        assert machine.ask(b"encrypt:secret") == b"answer"
    lines = bytes(recorder.said).split(b"\n")
    build_key = lines[lines.index(b"ekey") + 1]  # and the ids are in the table of every host
    eavesdropper = LineCipher(shared_key("l1", "a1", build_key + b"\n"))
    request, reply = (line + b"\n" for line in lines if line.startswith(b"enc:"))
    assert bytes(eavesdropper.decipher(request)) == b"secret"
    assert bytes(eavesdropper.decipher(reply)) == b"answer"
