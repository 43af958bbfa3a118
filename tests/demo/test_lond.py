import os
import resource
import signal
import socket
import subprocess

import pytest
from support.machine import LONC, read_line

from lonc.wire.cipher import LineCipher, shared_key


class Lonc:
    """lonc's side of the dialogue, one line at a time."""

    def __init__(self, machine):
        self.socket = socket.create_connection((machine.address(1), machine.port), timeout=10)

    def say(self, line):
        self.socket.sendall(line + b"\n")
        return read_line(self.socket)

    def greet(self):
        challenge = self.say(b"init")
        assert challenge.isdigit()
        assert self.say(challenge) == b"ok"
        build_key = self.say(b"ekey")
        assert len(build_key) == 30
        self.cipher = LineCipher(shared_key("l1", "a1", build_key + b"\n"))
        return self

    def say_encrypted(self, text):
        line = self.say(self.cipher.encipher(text).removesuffix(b"\n"))
        assert line.startswith(b"enc:")
        return self.cipher.decipher(line + b"\n")


@pytest.fixture
def connect(machine):
    machine.start_lond("l1")
    made = []

    def connect():
        made.append(Lonc(machine))
        return made[-1]

    yield connect
    for each in made:
        each.socket.close()


@pytest.fixture
def lonc(connect):
    return connect().greet()


def test_host_ids_version_load_and_echo(lonc):
    assert lonc.say(b"ping") == b"l1"
    assert lonc.say(b"pong") == b"a1"
    assert lonc.say(b"version")
    assert float(lonc.say(b"load")) >= 0
    assert lonc.say(b"echo:a:b") == b"a:b"
    assert lonc.say(b"whatever:x") == b"unknown_cmd"


def test_data_are_put_got_deleted_and_dumped(lonc):
    assert lonc.say(b"put:d:u:ns:a=1&b=x=y&c") == b"ok"
    assert lonc.say(b"get:d:u:ns:b&none&a&c") == b"x=y&&1&"
    assert lonc.say(b"get:d:other:ns:a") == b""
    assert lonc.say(b"put:d:u:ns:a=2") == b"ok"
    assert lonc.say(b"dump:d:u:ns") == b"a=2&b=x=y&c="
    assert lonc.say(b"del:d:u:ns:a&c&none") == b"ok"
    assert lonc.say(b"dump:d:u:ns") == b"b=x=y"
    assert lonc.say(b"put:d:u") == b"error: put has too few fields"
    assert lonc.say(b"dump:d") == b"error: dump has too few fields"


def test_auth_only_when_it_came_encrypted(lonc):
    lonc.say(b"put:d:u:passwd:password=p:w")
    assert lonc.say(b"auth:d:u:p:w") == b"refused"
    assert lonc.say_encrypted(b"auth:d:u:p:w") == b"authorized"
    assert lonc.say_encrypted(b"auth:d:u:p") == b"non_authorized"
    assert lonc.say_encrypted(b"auth:d:nobody:") == b"non_authorized"


def test_a_reply_to_an_encrypted_request_goes_back_encrypted(lonc):
    assert lonc.say_encrypted(b"ping") == b"l1"
    assert lonc.say_encrypted(b"echo:" + b"x" * 1000) == b"x" * 1000


def test_connections_now_and_at_most(connect):
    first, second = connect().greet(), connect().greet()
    assert first.say(b"connections") == b"2:2"
    second.socket.close()
    assert first.say(b"connections") in (b"1:2", b"2:2")
    third = connect().greet()
    assert third.say(b"connections") == b"2:2"


@pytest.mark.parametrize("lines", [[b"hello"], [b"init", b"wrong"], [b"enc:x"]])
def test_a_client_that_breaks_the_dialogue_is_refused(connect, lines):
    lonc = connect()
    for line in lines:
        answer = lonc.say(line)
    assert answer == b"refused"
    assert lonc.socket.recv(1) == b""


def test_an_encrypted_request_before_there_is_a_key_is_refused_and_ends_only_its_connection(connect):
    lonc = connect()
    challenge = lonc.say(b"init")
    assert lonc.say(challenge) == b"ok"
    assert lonc.say(b"sethost:l1:enc:1:00") == b"refused"
    assert lonc.socket.recv(1) == b""
    assert connect().greet().say(b"ping") == b"l1"


def test_a_malformed_enc_line_is_refused(lonc):
    assert lonc.say(b"enc:1:zz") == b"refused"
    assert lonc.socket.recv(1) == b""


def test_data_survive_in_a_file(machine):
    for expected in (b"", b"1"):
        lond = machine.start_lond("l1", "--database", machine.directory / "data.sqlite")
        lonc = Lonc(machine).greet()
        assert lonc.say(b"get:d:u:ns:a") == expected
        assert lonc.say(b"put:d:u:ns:a=1") == b"ok"
        lonc.socket.close()
        lond.terminate()
        assert lond.wait(10) == 0


def test_each_reason_not_to_start_is_a_sentence(machine):
    machine.start_lond("l1")
    done = machine.command("lond", "l1")
    assert done.returncode == 1
    where = f"{machine.address(1)} port {machine.port}"
    assert done.stderr.decode() == f"lonc: cannot listen at {where}: Address already in use\n"
    machine.hosts("l2")
    done = machine.command("lond", "l2", "--database", "/nowhere/at/all")
    assert done.returncode == 1
    assert b"cannot use the database /nowhere/at/all" in done.stderr
    machine.table.write_text("l1:d:library:name\n")
    done = machine.command("lond", "l1")
    assert done.stderr == b"lonc: l1 has no address in the table to serve at\n"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_by_a_signal(machine, signum):
    lond = machine.start_lond("l1")
    os.kill(lond.pid, signum)
    assert lond.wait(10) == 0


def test_without_descriptors_it_waits_until_there_are_some(machine):
    lond = machine.start_lond("l1")
    before = resource.prlimit(lond.pid, resource.RLIMIT_NOFILE)
    held = len(os.listdir(f"/proc/{lond.pid}/fd"))
    resource.prlimit(lond.pid, resource.RLIMIT_NOFILE, (held, before[1]))
    waiting = Lonc(machine)
    waiting.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        waiting.say(b"init")
    resource.prlimit(lond.pid, resource.RLIMIT_NOFILE, before)
    waiting.socket.settimeout(10)
    assert read_line(waiting.socket).isdigit()
    waiting.socket.close()


class TestTheLaterDialogue:
    def key_file(self, tmp_path, content=b"0123456789abcdef" * 2, mode=0o600):
        file = tmp_path / "key"
        file.write_bytes(content)
        file.chmod(mode)
        return file

    def test_a_key_file_is_used_and_removed(self, connect, tmp_path):
        lonc, file = connect(), self.key_file(tmp_path)
        assert lonc.say(b"init:local:%b:1" % os.fsencode(file)) == b"ok:local"
        assert not file.exists()
        assert lonc.say(b"version")
        assert lonc.say(b"sethost:l1") == b"ok"
        lonc.cipher = LineCipher(bytes.fromhex("0123456789abcdef" * 2))
        assert lonc.say_encrypted(b"echo:x") == b"x"

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
    def test_a_key_file_that_others_can_read_is_refused_and_not_removed(self, connect, tmp_path, mode):
        lonc, file = connect(), self.key_file(tmp_path, mode=mode)
        assert lonc.say(b"init:local:%b:1" % os.fsencode(file)) == b"refused"
        assert lonc.socket.recv(1) == b""
        assert file.exists()

    @pytest.mark.parametrize("content", [b"", b"0" * 31, b"0" * 33, b"g" * 32, b"0" * 32 + b"\n"])
    def test_a_file_without_a_key_is_refused_and_not_removed(self, connect, tmp_path, content):
        lonc, file = connect(), self.key_file(tmp_path, content)
        assert lonc.say(b"init:local:%b:1" % os.fsencode(file)) == b"refused"
        assert file.read_bytes() == content

    def test_a_path_that_is_not_a_regular_file_is_refused(self, connect, tmp_path):
        link, fifo = tmp_path / "link", tmp_path / "fifo"
        link.symlink_to(self.key_file(tmp_path))
        os.mkfifo(fifo, 0o600)
        for path in (link, fifo, tmp_path, tmp_path / "none", ""):
            assert connect().say(b"init:local:%b:1" % os.fsencode(path)) == b"refused"
        assert link.exists()

    def test_insecure(self, connect):
        lonc = connect()
        challenge = lonc.say(b"init::2.11")
        assert lonc.say(challenge) == b"ok"
        assert lonc.say(b"version")
        assert lonc.say(b"sethost:l9") == b"refused"
        assert lonc.say(b"sethost:l1") == b"ok"
        build_key = lonc.say(b"ekey")
        lonc.cipher = LineCipher(shared_key("l1", "a1", build_key + b"\n"))
        assert lonc.say_encrypted(b"echo:x") == b"x"

    def test_without_a_certificate_it_replies_to_init_ssl_with_a_challenge(self, connect):
        assert connect().say(b"init:ssl:2.11").isdigit()

    def test_a_request_for_one_id(self, lonc):
        assert lonc.say(b"sethost:l1:echo:x") == b"x"
        assert lonc.say(b"sethost:l9:echo:x") == b"refused"
        enciphered = bytes(lonc.cipher.encipher(b"echo:y")).removesuffix(b"\n")
        line = lonc.say(b"sethost:l1:" + enciphered)
        assert lonc.cipher.decipher(line + b"\n") == b"y"


def test_where_insecure_is_not_allowed_it_is_refused(machine):
    machine.configure(loncAllowInsecure=0, loncKeyMode="auto")
    machine.start_lond("l1")
    for word in (b"init", b"init::1", b"init:ssl:1"):
        lonc = Lonc(machine)
        assert lonc.say(word) == b"refused"
        lonc.socket.close()


def test_it_ends_without_output(machine):
    """Python reports unclosed files on standard error: since 3.13 also a database."""
    command = [*LONC, "-c", machine.configuration, "lond", "l1"]
    lond = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert lond.stdout.readline().startswith(b"l1 listens at ")
    taken = subprocess.run(command, capture_output=True, timeout=20)
    assert (taken.returncode, taken.stderr.count(b"\n")) == (1, 1)
    lond.terminate()
    assert lond.communicate(timeout=20) == (b"", b"")
    assert lond.returncode == 0
