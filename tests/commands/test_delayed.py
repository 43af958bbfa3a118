"""`lonc delayed …`, and a daemon with a key file, as whole programs."""

import contextlib
import os
import re
import time
from collections import Counter
from itertools import cycle

import pytest
from support.delayed_files import write_keys
from support.machine import LONC, Terminal, eventually
from support.scripted_lond import ScriptedLond, remembering

from lonc import lonnet
from lonc.spool import admin, spool
from lonc.spool.sealing import read_keys, sealed_by
from lonc.spool.spool import Name


@pytest.fixture
def keys(machine):
    """The key file, with the keys `first` and `old`."""
    file = machine.directory / "keys"
    machine.configure(
        loncDelayedKeyFile=file, loncDelayedInterval=0.2, loncRetryDelay=0.2, loncRetryMaxDelay=0.2
    )
    machine.sockets.mkdir(0o750)
    (machine.directory / "daemons" / "logs").mkdir()
    return write_keys(file, "first", "old")


@pytest.fixture
def put(machine, keys):
    """Writes an old file into the spool: plain, or sealed with that key."""

    def make(text, request=b"put:m:u:n:pw=9", key=None):
        directory = machine.settings().delayed_directory
        (directory / "bad").mkdir(parents=True, exist_ok=True)
        content = request + b"\n"
        if key is not None:
            other = read_keys(write_keys(machine.directory / "other", key))
            name = Name.parse(text.removeprefix("bad/"))
            content = other.seal(content, name.host, name.text)
        (directory / text).write_bytes(content)
        os.utime(directory / text, (1_700_000_000, 1_700_000_000))
        return directory / text

    return make


def done(machine, *arguments, status=0):
    """Output and error lines of `lonc delayed`."""
    finished = machine.command("delayed", *arguments)
    assert finished.returncode == status, finished
    return finished.stdout.decode().splitlines(), finished.stderr.decode().splitlines()


class TestKeygen:
    def test_from_no_key_to_the_second(self, machine, keys):
        keys.unlink()
        said, _ = done(machine, "keygen")
        first = read_keys(keys).first
        assert said[0] == f"{keys}: the key {first} seals from now on"
        assert said[-1] == "`lonc delayed reseal` seals with it what waits already."
        assert not any("PerlSetVar" in line for line in said)
        said, _ = done(machine, "keygen")
        second = read_keys(keys).first
        assert said[0] == f"{keys}: the key {second} seals from now on"
        assert said[-1].endswith("shows an older key no more, it may go.")
        assert first in read_keys(keys)
        assert machine.command("check").returncode == 0

    def test_into_a_file_without_keys_as_the_complaint_of_it_says(self, machine, keys):
        for text in ("", "# ours\n", "# without an end"):
            keys.write_text(text)
            assert b"lonc delayed keygen adds one" in machine.command("check").stdout
            done(machine, "keygen")
            assert read_keys(keys).first in keys.read_text()
            assert keys.read_text().startswith(text)

    def test_before_the_setting_is_made(self, machine, tmp_path):
        _, why = done(machine, "keygen", status=2)
        assert why == ["lonc: loncDelayedKeyFile is not set: name a file"]
        said, _ = done(machine, "keygen", str(tmp_path / "new"))
        assert f"Write `PerlSetVar loncDelayedKeyFile {tmp_path}/new` into" in said[3]
        assert read_keys(tmp_path / "new").first in said[0]

    def test_what_is_in_the_way(self, machine, keys):
        keys.write_text("nonsense\n")
        _, why = done(machine, "keygen", status=6)
        assert why == [f"lonc: {keys}:1: this is not a key, KEYID:64 hex digits"]
        _, why = done(machine, "keygen", "/nowhere/keys", status=1)
        assert why == ["lonc: cannot write /nowhere/keys: No such file or directory"]
        keys.with_name(".keys.new").touch()
        _, (why,) = done(machine, "keygen", status=1)
        assert why.startswith(f"lonc: {keys.parent}/.keys.new is in the way:")


class TestList:
    def test_what_waits_and_what_is_bad(self, machine, put):
        now = int(time.time())
        put(f"{now - 300_000}.0.1.put.l1", key="first")
        put(f"{now - 10_000}.0.1.put.longer")
        put(f"bad/{now - 300_000}.0.1.put.l1", key="old")
        put("bad/non\x1bsense")
        os.mkfifo(machine.settings().delayed_directory / "bad" / "pipe")
        (heading, *rows), _ = done(machine, "list")
        assert heading.split() == ["NAME", "HOST", "AGE", "SIZE", "SEALED"]
        assert [row.split()[1:] for row in rows] == [
            ["l1", "3d", "93", "first"],
            ["longer", "3h", "15", "plain"],
        ]
        assert [row.split()[0] for row in rows] == [
            f"{now - 300_000}.0.1.put.l1",
            f"{now - 10_000}.0.1.put.longer",
        ]
        (_, *rows), _ = done(machine, "list", "--bad")
        cells = [row.split() for row in rows]
        assert [(each[0], each[1], each[-1]) for each in cells] == [
            (f"{now - 300_000}.0.1.put.l1", "l1", "old"),
            (r"non\x1bsense", "-", "plain"),
            ("pipe", "-", "file"),
        ]

    def test_nothing(self, machine, keys):
        assert done(machine, "list") == (["no delayed transactions"], [])
        assert done(machine, "list", "--bad") == (["no bad transactions"], [])

    def test_it_needs_no_key(self, machine, put, keys):
        put("1.0.1.put.l1", key="first")
        keys.unlink()
        (_, row), _ = done(machine, "list")
        assert row.endswith("first")


class TestShow:
    def test_the_request_itself(self, machine, put):
        put("1.0.1.put.l1", b"put:\xff\x1b[2J", key="old")
        finished = machine.command("delayed", "show", "1.0.1.put.l1")
        assert (finished.returncode, finished.stdout) == (0, b"put:\xff\x1b[2J\n")

    def test_on_a_terminal_it_cannot_move_the_cursor(self, machine, put):
        put("1.0.1.put.l1", b"put:\xff\x1b[2J", key="first")
        words = ["delayed", "show", "1.0.1.put.l1"]
        terminal = Terminal([*LONC, "-c", machine.configuration, *words])
        terminal.until(r"put:\\xff\\x1b\[2J")
        assert terminal.end() == 0

    def test_one_that_waits_and_one_that_is_bad_have_the_same_name(self, machine, put):
        put("1.0.1.put.l1", b"waits")
        put("bad/1.0.1.put.l1", b"bad")
        assert done(machine, "show", "1.0.1.put.l1")[0] == ["waits"]
        assert done(machine, "show", "--bad", "1.0.1.put.l1")[0] == ["bad"]

    def test_why_it_cannot_be_shown(self, machine, put, keys):
        put("1.0.1.put.l1", key="first")
        put("2.0.1.put.l1", key="unknown")
        _, (why,) = done(machine, "show", "2.0.1.put.l1", status=1)
        assert why == f"lonc: 2.0.1.put.l1: it is sealed with the key unknown, which is not in {keys}"
        _, why = done(machine, "show", "3.0.1.put.l1", status=2)
        assert why == ["lonc: 3.0.1.put.l1: there is no file of that name"]
        _, why = done(machine, "show", "bad/1.0.1.put.l1", status=2)
        assert why == ["lonc: 'bad/1.0.1.put.l1' is not a name: it has a slash"]
        keys.chmod(0o644)
        _, (why,) = done(machine, "show", "1.0.1.put.l1", status=6)
        assert why.startswith(f"lonc: 1.0.1.put.l1: {keys}: its mode 0644 lets other users")


class TestReseal:
    def test_all_that_is_not_sealed_with_the_first_key(self, machine, put, keys):
        paths = [
            put("1.0.1.put.l1"),
            put("2.0.1.put.l1", key="old"),
            put("3.0.1.put.l1", key="unknown"),
            put("4.0.1.put.l1", key="first"),
        ]
        said, why = done(machine, "reseal", status=1)
        assert said == ["1.0.1.put.l1: sealed with first", "2.0.1.put.l1: sealed with first"]
        assert why == [f"lonc: 3.0.1.put.l1: it is sealed with the key unknown, which is not in {keys}"]
        found = [sealed_by(path.read_bytes()) for path in paths]
        assert found == ["first", "first", "unknown", "first"]
        paths[2].unlink()
        assert done(machine, "reseal") == ([], [])
        assert done(machine, "show", "2.0.1.put.l1")[0] == ["put:m:u:n:pw=9"]

    def test_all_can_be_made_plain_again(self, machine, put, keys):
        paths = [put(f"{number}.0.1.put.l1", key=key) for number, key in enumerate(("first", "old"))]
        paths.append(put("3.0.1.put.l1"))
        said, _ = done(machine, "reseal", "--plain")
        assert said == ["0.0.1.put.l1: plain", "1.0.1.put.l1: plain"]
        assert {path.read_bytes() for path in paths} == {b"put:m:u:n:pw=9\n"}
        assert done(machine, "reseal", "--plain") == ([], [])

    def test_without_keys_nothing_is_touched(self, machine, put, keys):
        path = put("1.0.1.put.l1")
        keys.chmod(0o644)
        _, (why,) = done(machine, "reseal", status=6)
        assert why.startswith(f"lonc: {keys}: its mode 0644")
        machine.configure()
        _, why = done(machine, "reseal", status=2)
        assert why == ["lonc: loncDelayedKeyFile is not set"]
        assert path.read_bytes() == b"put:m:u:n:pw=9\n"


class TestRequeue:
    def test_by_name_and_all(self, machine, put):
        put("bad/1.0.1.put.l1")
        put("bad/2.0.1.put.l1", key="old")
        put("bad/nonsense")
        said, why = done(machine, "requeue", "1.0.1.put.l1", "9.0.1.put.l1", status=2)
        assert said == ["1.0.1.put.l1: waits again"]
        assert why == ["lonc: 9.0.1.put.l1: there is no bad file of that name"]
        said, why = done(machine, "requeue", "--all", status=1)
        assert said == ["2.0.1.put.l1: waits again"]
        assert why == ["lonc: nonsense: no transaction can have that name"]
        assert len(admin.waiting(machine.settings())) == 2

    @pytest.mark.parametrize("arguments", [[], ["--all", "1.0.1.put.l1"]])
    def test_usage(self, machine, keys, arguments):
        _, why = done(machine, "requeue", *arguments, status=2)
        assert why == ["lonc: requeue needs names, or --all"]


class TestDrop:
    def test_by_name_and_by_host(self, machine, put):
        for name in ("1.0.1.put.l1", "2.0.1.put.l1", "3.0.1.put.gone", "bad/4.0.1.put.gone"):
            put(name, key="first")
        said, why = done(machine, "drop", "1.0.1.put.l1", "9.0.1.put.l1", status=2)
        assert said == ["1.0.1.put.l1: dropped"]
        assert why == ["lonc: 9.0.1.put.l1: there is no file of that name"]
        assert done(machine, "drop", "--host", "gone")[0] == ["3.0.1.put.gone: dropped"]
        _, why = done(machine, "drop", "--host", "gone", status=2)
        assert why == ["lonc: no delayed transactions for gone"]
        assert done(machine, "drop", "--bad", "--host", "gone")[0] == ["4.0.1.put.gone: dropped"]
        _, why = done(machine, "drop", "--bad", "--host", "gone", status=2)
        assert why == ["lonc: no bad transactions for gone"]
        settings = machine.settings()
        assert [each.path.name for each in admin.waiting(settings)] == ["2.0.1.put.l1"]
        lines = settings.perm_log.read_text().splitlines()
        assert [line.split(":")[1:4] for line in lines] == [
            ["F", "l1", "put"],
            ["F", "gone", "put"],
            ["F", "gone", "put"],
        ]

    @pytest.mark.parametrize("arguments", [[], ["--host", "l1", "1.0.1.put.l1"]])
    def test_usage(self, machine, keys, arguments):
        _, why = done(machine, "drop", *arguments, status=2)
        assert why == ["lonc: drop needs names, or --host ID"]

    def test_a_name_with_a_slash_drops_nothing(self, machine, put):
        path = put("1.0.1.put.l1")
        done(machine, "drop", "1.0.1.put.l1", "../l1", status=2)
        assert path.exists()


class TestTheDaemon:
    def test_with_a_faulty_key_file_it_does_not_start(self, machine, keys):
        keys.chmod(0o644)
        fault = f"{keys}: its mode 0644 lets other users read the keys: chmod o= {keys}"
        checked = machine.command("check")
        assert checked.returncode == 1
        warning = f"{machine.configuration}: warning: it will not start: {fault}\n"
        assert warning in checked.stdout.decode()
        for command in ("start", "run"):
            finished = machine.command(command)
            assert (finished.returncode, finished.stderr.decode()) == (1, f"lonc: {fault}\n")
        keys.chmod(0o640)
        machine.start()
        keys.chmod(0o644)
        finished = machine.command("restart")
        assert finished.stderr.decode() == f"lonc: {fault}; nothing is stopped\n"

    def test_who_saves_by_hand_is_told_why_it_failed(self, machine, put, keys):
        put("1.0.1.put.l1")  # so that lonc makes no attempt before it
        keys.chmod(0o644)
        finished = machine.command("send", "--critical", "l1", "put:x")
        assert (finished.returncode, finished.stdout) == (1, b"con_failed\n")
        assert f"lonc: {keys}: its mode 0644 lets other users read the keys" in finished.stderr.decode()

    def test_a_reload_with_a_faulty_key_file_changes_nothing(self, machine, keys):
        machine.start()
        before = machine.children()
        keys.write_text("nonsense\n")
        finished = machine.command("reload")
        assert finished.returncode == 1
        said = f"lonc: {keys}:1: this is not a key, KEYID:64 hex digits\n"
        assert finished.stderr.decode() == said
        assert machine.children() == before
        machine.hosts("l1", "l2")
        assert machine.command("update").returncode == 0  # it does not reread the settings
        write_keys(keys, "first")
        assert machine.command("reload").returncode == 0
        assert machine.children()["l1"] != before["l1"]

    def test_grades_wait_sealed_while_keys_are_changed_and_are_all_carried_out(self, machine, keys):
        machine.start()
        settings = machine.settings()
        for number in range(3):
            assert lonnet.critical(f"put:secret{number}", "l1", settings=settings) == b"con_delayed"
        done(machine, "keygen")
        for number in range(3, 6):
            assert lonnet.critical(f"put:secret{number}", "l1", settings=settings) == b"con_delayed"
        found = [sealed_by(each.path.read_bytes()) for each in admin.waiting(settings)]
        assert found == ["first"] * 3 + [read_keys(keys).first] * 3
        assert done(machine, "reseal")[1] == []
        keys.write_text(re.sub(r"(?m)^(first|old):.*\n", "", keys.read_text()))
        (settings.delayed_directory / "9999999999.0.1.put.l1").write_bytes(b"put:lonnet\n")
        seen = []
        with ScriptedLond(machine.address(1), machine.port, remembering(seen)):
            eventually(lambda: admin.waiting(settings) == [])
            machine.stop()
        assert seen == [b"put:secret%d" % number for number in range(6)] + [b"put:lonnet"]
        for path in (settings.perm_log, settings.log_file):
            assert "secret" not in path.read_text()

    def test_what_was_cut_is_bad_and_may_be_requeued_when_it_is_whole(self, machine, keys):
        machine.start()
        settings = machine.settings()
        spool.save(settings, b"echo:x", "l1")
        (entry,) = admin.waiting(settings)
        whole = entry.path.read_bytes()
        entry.path.write_bytes(whole[:50])
        machine.start_lond("l1")
        (bad,) = eventually(lambda: admin.bad(settings))
        # The file is moved before that is logged.
        eventually(lambda: "it is sealed, and was cut or altered" in machine.log())
        bad.path.write_bytes(whole)
        said, _ = done(machine, "requeue", "--all")
        assert said == [f"{entry.path.name}: waits again"]
        eventually(lambda: admin.waiting(settings) == [])
        assert ":S:l1:echo:" in settings.perm_log.read_text()

    def test_without_the_keys_all_waits_and_it_is_told(self, machine, keys):
        machine.start()
        settings = machine.settings()
        spool.save(settings, b"echo:x", "l1")
        keys.rename(keys.with_name("elsewhere"))
        machine.start_lond("l1")
        trouble = f"delayed transactions wait: {keys}: No such file or directory"
        eventually(lambda: trouble in (machine.status()["last_error"] or ["", ""])[1])
        assert trouble in machine.log()
        assert len(admin.waiting(settings)) == 1
        keys.with_name("elsewhere").rename(keys)
        eventually(lambda: admin.waiting(settings) == [])

    def test_whatever_is_resealed_while_it_is_carried_out_is_carried_out_once_and_in_order(
        self, machine, keys, restore_afterwards
    ):
        """Invariant: lond receives each request once, in the order of saving."""
        restore_afterwards(admin)
        admin.READ_BACK_WITHIN = 0
        machine.start()
        settings = machine.settings()
        expected = [b"put:%d" % number for number in range(60)]
        for request in expected:
            spool.save(settings, request, "l1")
        seen, said, orders = [], Counter(), cycle([("old", "first"), ("first", "old")])
        with ScriptedLond(machine.address(1), machine.port, remembering(seen)):
            while entries := admin.waiting(settings):
                more = len(seen) + 20
                eventually(lambda more=more: len(seen) >= more or not admin.waiting(settings))
                ring = read_keys(_replaced(keys, *next(orders)))
                for entry in entries:
                    with contextlib.suppress(admin.LoncError):
                        said[admin.reseal(settings, ring, entry)] += 1
            machine.stop()
        assert seen == expected
        assert any(sealed.startswith("sealed with") for sealed in said if sealed)
        assert admin.bad(settings) == []


def _replaced(file, *ids):
    """Replace the file by renaming, as keygen does: the child must never read half of it."""
    os.replace(write_keys(file.with_name("being made"), *ids), file)
    return file


def test_what_lies_on_the_disk_is_looked_after_while_the_table_has_faults(machine):
    machine.table.write_text("nonsense\n")
    machine.configure(loncDelayedKeyFile=machine.directory / "keys")
    for arguments in (["keygen"], ["list"], ["reseal"]):
        done = machine.command("delayed", *arguments)
        assert (done.returncode, done.stderr) == (0, b"")
