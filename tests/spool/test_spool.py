import contextlib
import errno
import os
import re
import resource
import stat
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from support.delayed_files import contents, machine_in, saved, write_keys
from support.machine import in_child

from lonc import lonnet
from lonc.errors import Misconfigured
from lonc.escape import escaped_bytes
from lonc.runtime.directory import Directory
from lonc.spool import spool
from lonc.spool.sealing import sealed_by
from lonc.spool.spool import Name, newest, record, save, unseal, waiting

NOW = 1_700_000_000


@pytest.fixture
def settings(tmp_path):
    return machine_in(tmp_path)


@pytest.fixture
def directory(settings):
    spool.make_directory(settings.delayed_directory)
    return settings.delayed_directory


@pytest.fixture
def clock(monkeypatch, restore_afterwards):
    """The wall clock, at NOW until it is set."""

    class Clock:
        now = NOW + 0.5

    monkeypatch.setattr(time, "time", lambda: Clock.now)
    restore_afterwards(spool)
    spool._last_used = {}
    return Clock


class TestNames:
    def test_a_name_and_its_parts(self):
        name = Name.parse("1700000000.3.4711.putmsu.l1")
        assert name == Name(1700000000, 3, 4711, "putmsu", "l1")
        assert str(name) == "1700000000.3.4711.putmsu.l1"

    def test_a_request_without_word_characters_has_no_command(self):
        assert Name.parse("1.2.3..l1") == Name(1, 2, 3, "", "l1")

    def test_names_sort_by_their_numbers(self):
        texts = ["9.0.9.b.l1", "10.2.9.a.l1", "10.10.1.a.l1", "10.10.2.a.l1", "0100.0.1.a.l1"]
        names = [Name.parse(text) for text in reversed(texts)]
        assert [str(name) for name in sorted(names)] == texts

    def test_leading_zeros_make_another_file(self):
        one, other = Name.parse("007.0.1.x.l1"), Name.parse("7.0.1.x.l1")
        assert (one.time, str(one)) == (7, "007.0.1.x.l1")
        assert len({one, other}) == 2

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "1.2.3.x",
            "1.2.3.x.",
            "1.2.3.x.l1.",
            "1.2.3.x.l1\n",
            "1.2.3.x.-l1",
            "1.2.3.x:y.l1",
            "1.2.3.ü.l1",
            "1.2.3." + "x" * 17 + ".l1",
            "1" * 19 + ".2.3.x.l1",
            "1..3.x.l1",
            "-1.2.3.x.l1",
            "\u0661.2.3.x.l1",
            "1.2.3.x.y.l1",
            "1.2.3.x.l1\udcff",
        ],
    )
    def test_other_texts_are_no_names(self, text):
        assert Name.parse(text) is None

    @given(st.from_regex(spool._NAME, fullmatch=True))
    def test_every_parsed_name_keeps_its_spelling(self, text):
        assert str(Name.parse(text)) == text


class TestWaiting:
    def test_waiting_files_are_listed_in_order_and_impossible_names_apart(self, directory):
        for text in ["10.0.1.x.l2", "9.0.1.x.l1", "nonsense", "1.2.3.x", ".8.0.1.x.l1", b"\xff"]:
            (directory / os.fsdecode(text)).touch()
        (directory / "bad").mkdir()
        names, impossible = waiting(directory)
        assert [str(name) for name in names] == ["9.0.1.x.l1", "10.0.1.x.l2"]
        assert impossible == ["1.2.3.x", "nonsense", "\udcff"]

    def test_a_missing_directory_is_empty(self, settings):
        assert waiting(settings.delayed_directory) == ([], [])
        assert newest(settings.delayed_directory, "l1") is None

    def test_a_directory_that_cannot_be_read_is_an_error(self, settings):
        settings.delayed_directory.touch()
        with pytest.raises(NotADirectoryError):
            waiting(settings.delayed_directory)
        with pytest.raises(NotADirectoryError):
            newest(settings.delayed_directory, "l1")

    def test_the_newest_file_of_a_host_is_found_by_number(self, directory):
        for text in [
            "10.9.1.x.l1",
            "10.10.1.x.l1",
            "9.99.1.x.l1",
            "11.0.1.x.ll1",
            ".12.0.1.x.l1",
            "x.l1",
        ]:
            (directory / text).touch()
        assert newest(directory, "l1") == (10, 10)
        assert newest(directory, "l2") is None


class TestSaving:
    def test_a_file_contains_the_request_and_a_newline_and_is_named_by_its_command(
        self, settings, clock
    ):
        save(settings, b"put:msu:student1:grades:homework=9", "l1")
        name = f"{NOW}.0.{os.getpid()}.put.l1"
        assert contents(settings.delayed_directory) == {name: b"put:msu:student1:grades:homework=9\n"}

    @pytest.mark.parametrize(
        "request_", [b"", b"::", b"\xff\xfe\0x" * 9, b"x" * 3_000_000, "ü:ß".encode()]
    )
    def test_every_request_has_a_valid_file_name(self, settings, request_):
        save(settings, request_, "a-b_C")
        assert saved(settings) == [request_ + b"\n"]

    @pytest.mark.parametrize("umask", [0o000, 0o777])
    def test_modes_are_the_same_whatever_the_umask(self, settings, umask):
        def run():
            os.umask(umask)
            save(settings, b"x", "l1")
            record(settings, "D", "l1", b"x")
            return "done"

        assert in_child(run) == "done"
        (file,) = settings.delayed_directory.iterdir()
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file, settings.perm_log)]
        assert modes == [0o2770, 0o640, 0o660]

    def test_an_existing_directory_keeps_its_mode(self, settings, directory):
        directory.chmod(0o700)
        save(settings, b"x", "l1")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700

    def test_a_missing_directory_above_is_an_error(self, settings):
        settings.socket_directory.rmdir()
        with pytest.raises(FileNotFoundError):
            save(settings, b"x", "l1")
        assert not settings.socket_directory.exists()

    def test_a_file_in_place_of_the_directory_is_an_error(self, settings):
        settings.delayed_directory.touch()
        with pytest.raises(FileExistsError):
            save(settings, b"x", "l1")

    def test_a_new_file_sorts_behind_all_that_wait_for_its_host(self, settings, directory, clock):
        for text in [f"{NOW}.7.1.x.l1", f"{NOW}.9.1.x.l2", f"{NOW - 1}.99.1.x.l1"]:
            (directory / text).touch()
        save(settings, b"x", "l1")
        assert newest(directory, "l1") == (NOW, 8)
        clock.now += 1
        save(settings, b"x", "l1")
        assert newest(directory, "l1") == (NOW + 1, 0)

    def test_a_clock_that_is_set_back_changes_no_order(self, settings, directory, clock):
        (directory / f"{NOW + 1000}.3.1.x.l1").write_bytes(b"first\n")
        save(settings, b"second", "l1")
        clock.now -= 1000
        save(settings, b"third", "l1")
        assert saved(settings) == [b"first\n", b"second\n", b"third\n"]

    def test_the_name_of_a_removed_file_is_not_used_again(self, settings, directory, clock):
        given = set()
        for now in (NOW, NOW + 1, NOW, NOW):
            clock.now = now
            save(settings, b"x", "l1")
            (path,) = directory.iterdir()
            path.unlink()
            given.add(path.name)
        assert len(given) == 4

    def test_the_name_of_a_removed_file_is_not_used_while_an_older_one_waits(
        self, settings, directory, clock
    ):
        clock.now = NOW + 1
        save(settings, b"x", "l1")
        (newest_path,) = directory.iterdir()
        newest_path.unlink()
        (directory / f"{NOW}.0.1.x.l1").touch()
        clock.now = NOW
        save(settings, b"x", "l1")
        assert newest(directory, "l1") == (NOW + 1, 1)

    def test_threads_save_under_different_names(self, settings, directory, clock):
        begin = threading.Barrier(8)

        def write(number):
            begin.wait()
            for count in range(25):
                save(settings, b"put:%d.%d" % (number, count), "l1")

        threads = [threading.Thread(target=write, args=[number]) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = saved(settings)
        assert sorted(lines) == sorted(
            b"put:%d.%d\n" % (number, count) for number in range(8) for count in range(25)
        )
        for number in range(8):  # and each in its own order
            own = [line for line in lines if line.startswith(b"put:%d." % number)]
            assert own == [b"put:%d.%d\n" % (number, count) for count in range(25)]

    def test_processes_save_under_different_names(self, settings, directory, clock):
        for _ in range(3):
            save(settings, b"x", "l1")
            assert in_child(lambda: save(settings, b"x", "l1") or "saved") == "saved"
        assert len(saved(settings)) == 6

    def test_a_process_forked_while_a_thread_saves_can_save(self, settings, directory, clock):
        done = threading.Event()

        def write():
            while not done.is_set():
                newest(directory, "l1")
                spool._next_name(directory, "x", "l1")

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(20):
                assert in_child(lambda: save(settings, b"x", "l1") or "saved") == "saved"
        finally:
            done.set()
            thread.join()

    def test_an_existing_file_is_never_replaced(self, settings, directory, clock, restore_afterwards):
        theirs = f"{NOW}.0.{os.getpid()}.x.l1"
        (directory / theirs).write_bytes(b"theirs\n")
        (directory / f".{NOW}.1.{os.getpid()}.x.l1").write_bytes(b"left by one that was killed")
        restore_afterwards(spool)
        spool.newest = lambda *_: None  # they came after the look
        save(settings, b"x", "l1")
        assert contents(directory) == {
            theirs: b"theirs\n",
            f".{NOW}.1.{os.getpid()}.x.l1": b"left by one that was killed",
            f"{NOW}.2.{os.getpid()}.x.l1": b"x\n",
        }

    def test_if_no_name_sorts_behind_all_others_saving_fails(self, settings, directory):
        last = "9" * 18
        (directory / f"{last}.{last}.1.x.l1").touch()
        with pytest.raises(OSError, match="too large"):
            save(settings, b"x", "l1")
        assert os.listdir(directory) == [f"{last}.{last}.1.x.l1"]
        (directory / f"{last}.{last}.1.x.l1").unlink()
        save(settings, b"x", "l1")
        assert saved(settings) == [b"x\n"]

    def test_file_and_directory_are_synced_before_saving_returns(self, settings, monkeypatch):
        done = []
        fsync, rename, mkdir = os.fsync, os.rename, os.mkdir

        def note(what, then):
            def call(on, *more, **directories):
                path = os.readlink(f"/proc/self/fd/{on}") if what == "fsync" else on
                done.append((what, os.path.basename(path)))
                return then(on, *more, **directories)

            return call

        for name, then in (("fsync", fsync), ("rename", rename), ("mkdir", mkdir)):
            monkeypatch.setattr(os, name, note(name, then))
        save(settings, b"x", "l1")
        (name,) = os.listdir(settings.delayed_directory)
        assert done == [
            ("mkdir", "delayed"),
            ("fsync", "sockets"),
            ("fsync", f".{name}"),
            ("rename", f".{name}"),
            ("fsync", "delayed"),
        ]

    def test_a_file_is_removed_if_its_directory_cannot_be_synced(
        self, settings, directory, restore_afterwards
    ):
        def fail(_):
            raise OSError(errno.EIO, "Input/output error")

        restore_afterwards(Directory)
        Directory.sync = fail
        with pytest.raises(OSError, match="Input/output error"):
            save(settings, b"x", "l1")
        assert os.listdir(directory) == []

    def test_a_directory_of_another_user_keeps_its_mode(self, settings, monkeypatch):
        monkeypatch.setattr(os, "geteuid", lambda: 54321)
        spool.make_directory(settings.delayed_directory)
        assert stat.S_IMODE(settings.delayed_directory.stat().st_mode) != spool.DIRECTORY_MODE

    def test_short_writes_are_continued(self, settings, monkeypatch):
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
        save(settings, b"0123456789", "l1")
        assert saved(settings) == [b"0123456789\n"]

    def test_a_file_that_reads_back_differently_is_not_saved(self, settings, directory, monkeypatch):
        monkeypatch.setattr(os, "pread", lambda fd, size, offset: b"\0" * size)
        with pytest.raises(OSError, match="not what was written"):
            save(settings, b"x", "l1")
        assert os.listdir(directory) == []

    def test_a_file_that_reads_back_longer_is_not_saved(self, settings, directory, monkeypatch):
        monkeypatch.setattr(os, "pread", lambda fd, size, offset: b"x\nmore"[:size])
        with pytest.raises(OSError, match="not what was written"):
            save(settings, b"x", "l1")

    def test_an_interrupted_writer_leaves_no_file(self, settings, directory, monkeypatch):
        def interrupt(_):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(settings, b"x", "l1")
        assert os.listdir(directory) == []


@pytest.fixture
def sealing(settings, tmp_path):
    """The settings, with a key file."""
    return replace(settings, delayed_key_file=write_keys(tmp_path / "keys", "first"))


class TestSealing:
    def test_with_keys_neither_content_nor_name_shows_the_request(self, sealing, clock):
        save(sealing, b"put:m:u:n:pw=9", "l1")
        ((text, content),) = contents(sealing.delayed_directory).items()
        assert text == f"{NOW}.0.{os.getpid()}.put.l1"
        assert content.startswith(b"lonc:sealed:1:first:")
        assert content.endswith(b"\n")
        assert unseal(sealing, content, Name.parse(text)) == b"put:m:u:n:pw=9\n"

    def test_the_name_of_an_encrypted_request_has_nothing_from_behind_encrypt(self, sealing):
        save(sealing, b"encrypt:auth:m:u:pw", "l1")
        (text,) = os.listdir(sealing.delayed_directory)
        assert Name.parse(text).command == "encrypt"

    def test_the_request_is_never_on_the_disk_in_clear(self, sealing, monkeypatch):
        written = []
        original = os.write

        def write(fd, data):
            written.append(bytes(data))
            return original(fd, data)

        monkeypatch.setattr(os, "write", write)
        save(sealing, b"put:secret", "l1")
        assert [data[:12] for data in written] == [b"lonc:sealed:"]

    def test_a_file_that_reads_back_differently_is_not_saved(self, sealing, monkeypatch):
        monkeypatch.setattr(os, "pread", lambda fd, size, offset: b"put:secret\n")
        with pytest.raises(OSError, match="not what was written"):
            save(sealing, b"put:secret", "l1")
        assert os.listdir(sealing.delayed_directory) == []

    def test_without_keys_nothing_is_saved(self, sealing):
        sealing.delayed_key_file.chmod(0o644)
        with pytest.raises(Misconfigured, match="lets other users read the keys"):
            save(sealing, b"put:secret", "l1")
        assert not sealing.delayed_directory.exists()

    def test_changed_keys_are_used_at_once(self, sealing):
        save(sealing, b"one", "l1")
        write_keys(sealing.delayed_key_file, "second", "first")
        save(sealing, b"two", "l1")
        one, two = saved(sealing)
        assert (sealed_by(one), sealed_by(two)) == ("first", "second")

    @given_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(request_=st.binary().filter(lambda request: b"\n" not in request))
    def test_every_sealed_request_opens_to_itself(self, sealing, request_):
        """Invariant: what is saved and opened again is the request and a newline."""
        save(sealing, request_, "a-b_C")
        (name,), _ = waiting(sealing.delayed_directory)
        path = sealing.delayed_directory / name.text
        assert unseal(sealing, path.read_bytes(), name) == request_ + b"\n"
        path.unlink()

    def test_without_a_key_file_a_sealed_file_is_not_rejected(self, sealing, settings):
        save(sealing, b"x", "l1")
        (name,), _ = waiting(sealing.delayed_directory)
        with pytest.raises(Misconfigured, match="it is sealed, and loncDelayedKeyFile is not set"):
            unseal(settings, saved(sealing)[0], name)


class TestRecord:
    def test_a_line_is_time_kind_host_request_and_local_time(self, settings, clock):
        record(settings, "D", "l1", b"put:a:b:c=1")
        clock.now += 1
        record(settings, "S", "l1", b"put:a:b:c=1")
        assert settings.perm_log.read_text().splitlines() == [
            f"{NOW}:D:l1:put:a:b:c=1:{time.ctime(NOW)}",
            f"{NOW + 1}:S:l1:put:a:b:c=1:{time.ctime(NOW + 1)}",
        ]

    @pytest.mark.parametrize(
        ("request_", "said"),
        [
            (b"", b""),
            (b"a\nF:l1:b", rb"a\x0aF:l1:b"),
            (b"\r\0\x1b[2J\x7f", rb"\x0d\x00\x1b[2J\x7f"),
            ("\x85\u2028\u2029".encode(), rb"\xc2\x85\xe2\x80\xa8\xe2\x80\xa9"),
            (b"M\xfcnchen \x85", b"M\xfcnchen \x85"),
            ("München".encode(), "München".encode()),
            (b"encrypt:auth:msu:student1:secret", b"encrypt:auth"),
            (b"encrypt:auth", b"encrypt:auth"),
            (b"encrypt:", b"encrypt:"),
            (b"encrypt:a\nb:secret", rb"encrypt:a\x0ab"),
        ],
    )
    def test_a_record_is_one_line_without_secrets(self, settings, request_, said):
        record(settings, "F", "l1", request_)
        line = settings.perm_log.read_bytes()
        assert re.fullmatch(rb"[0-9]+:F:l1:%b:[A-Z][A-Za-z0-9: ]+\n" % re.escape(said), line)

    @pytest.mark.parametrize(
        ("request_", "said"),
        [
            (b"put:msu:student1:grades:homework=9", b"put"),
            (b"put\n:secret", rb"put\x0a"),
            (b"encrypt:auth:msu:student1:secret", b"encrypt:auth"),
            (b"ping", b"ping"),
            (b"", b""),
        ],
    )
    def test_the_record_of_a_sealed_request_has_its_command(self, sealing, request_, said):
        record(sealing, "D", "l1", request_)
        line = sealing.perm_log.read_bytes()
        assert re.fullmatch(rb"[0-9]+:D:l1:%b:[A-Z][A-Za-z0-9: ]+\n" % re.escape(said), line)

    @given(st.binary())
    def test_no_request_makes_a_second_line(self, request_):
        said = escaped_bytes(request_).decode(errors="replace")
        assert len((said + "x").splitlines()) == 1

    def test_an_existing_log_keeps_its_mode_and_its_lines(self, settings):
        settings.perm_log.write_bytes(b"before\n")
        settings.perm_log.chmod(0o600)
        record(settings, "D", "l1", b"x")
        assert settings.perm_log.read_bytes().startswith(b"before\n")
        assert stat.S_IMODE(settings.perm_log.stat().st_mode) == 0o600

    def test_the_log_gets_the_group_of_the_directory(self, settings, directory, monkeypatch):
        given = []
        monkeypatch.setattr(os, "fchown", lambda fd, *owner: given.append((os.fstat(fd).st_ino, owner)))
        spool.make_log(settings)
        assert given == [(settings.perm_log.stat().st_ino, (-1, directory.stat().st_gid))]

    @pytest.mark.parametrize(("owner", "followed"), [(0, True), (1000, True), (1001, False)])
    def test_a_link_is_followed_if_it_belongs_to_root_or_us(
        self, settings, tmp_path, monkeypatch, owner, followed
    ):
        target = tmp_path / "target"
        target.touch()
        settings.perm_log.symlink_to(target)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        os.lchown(settings.perm_log, owner, owner)
        with contextlib.nullcontext() if followed else pytest.raises(OSError, match="symbolic links"):
            record(settings, "D", "l1", b"x")
        assert (target.stat().st_size > 0) == followed

    def test_a_log_created_at_the_same_time_by_another_process_is_used(self, settings, monkeypatch):
        original = os.open

        def late(path, flags, *mode, **directory):
            if path == settings.perm_log.name and flags & os.O_CREAT:
                monkeypatch.setattr(os, "open", original)
                settings.perm_log.write_bytes(b"before\n")
            return original(path, flags, *mode, **directory)

        monkeypatch.setattr(os, "open", late)
        record(settings, "D", "l1", b"x")
        assert settings.perm_log.read_bytes().count(b"\n") == 2

    @pytest.mark.parametrize("trouble", ["missing", "directory", "fifo", "full"])
    def test_a_log_that_cannot_be_written_is_an_error_and_changes_no_answer(self, settings, trouble):
        if trouble == "missing":
            settings.perm_log.parent.rmdir()
        elif trouble == "directory":
            settings.perm_log.mkdir()
        elif trouble == "fifo":
            os.mkfifo(settings.perm_log)
        else:
            settings.perm_log.symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"\[Errno"):
            record(settings, "D", "l1", b"x")
        assert lonnet.critical("x", "l1", timeout=0.01, settings=settings) == b"con_delayed"

    def test_half_a_record_is_an_error(self, settings, monkeypatch):
        write = os.write
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
        with pytest.raises(OSError, match="No space left"):
            record(settings, "D", "l1", b"x")

    def test_the_next_record_after_half_of_one_is_a_line_of_its_own(self, settings):
        def cut_off():
            resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
            try:
                record(settings, "D", "l1", b"put:first")
            except OSError as error:
                return str(error)

        assert "No space left" in in_child(cut_off)
        for request in (b"put:second", b"put:third"):
            record(settings, "S", "l1", request)
        cut, second, third = settings.perm_log.read_bytes().splitlines()
        assert len(cut) == 20
        assert b":S:l1:put:second:" in second
        assert b":S:l1:put:third:" in third


class TestPuttingAside:
    def test_a_rejected_file_is_moved_and_replaces_none(self, directory):
        for content in (b"one", b"two", b"three"):
            file = directory / "nonsense"
            file.write_bytes(content)
            spool.move_to_bad(directory, "nonsense", file.stat().st_ino)
        assert os.listdir(directory) == ["bad"]
        moved = {"nonsense": b"one", "nonsense.1": b"two", "nonsense.2": b"three"}
        assert contents(directory / "bad") == moved

    def test_rejecting_a_missing_file_is_an_error(self, directory):
        with pytest.raises(FileNotFoundError):
            spool.move_to_bad(directory, "nonsense", 1)

    def test_a_file_that_was_replaced_since_it_was_judged_stays(self, directory):
        judged, other = directory / "nonsense", directory / "other"
        judged.write_bytes(b"judged")
        other.write_bytes(b"other")
        inode = judged.stat().st_ino
        other.rename(judged)
        spool.move_to_bad(directory, "nonsense", inode)
        assert judged.read_bytes() == b"other"


class TestDirectoryOfAnother:
    """Between mkdir and open, a user that may write the parent can replace the new directory."""

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can change modes of others' directories")
    def test_its_mode_is_not_changed(self, tmp_path, monkeypatch):
        mkdir = os.mkdir

        def replaced(name, mode, dir_fd):
            mkdir(name, 0o700, dir_fd=dir_fd)
            os.chown(name, 4711, 4711, dir_fd=dir_fd)

        monkeypatch.setattr(os, "mkdir", replaced)
        spool.make_directory(tmp_path / "delayed")
        assert (tmp_path / "delayed").stat().st_mode & 0o7777 == 0o700

    def test_a_link_is_not_followed(self, tmp_path, monkeypatch):
        victim = tmp_path / "victim"
        victim.mkdir(mode=0o700)
        monkeypatch.setattr(
            os, "mkdir", lambda name, mode, dir_fd: os.symlink(victim, name, dir_fd=dir_fd)
        )
        with pytest.raises(OSError, match="delayed"):
            spool.make_directory(tmp_path / "delayed")
        assert victim.stat().st_mode & 0o7777 == 0o700
