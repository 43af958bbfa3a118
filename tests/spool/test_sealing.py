"""Sealing one line, and the file of the keys; no daemon runs."""

import os
import re
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.import_record import print_when_the_library_of_keys_is_imported
from support.machine import as_nobody, in_child, python_calling

from lonc.errors import CannotStart, Misconfigured
from lonc.spool import sealing
from lonc.spool.sealing import (
    Keyring,
    add_key,
    is_sealed,
    longest_sealed,
    read_keys,
    require_keys,
    sealed_by,
)

OLD, NEW = b"\x01" * 32, b"\x02" * 32
FILE = Path("keys")
NAME = "1700000000.0.4711.put.l1"

KEYS = Keyring(FILE, {"new": NEW, "old": OLD})
SEALED = KEYS.seal(b"put:msu:student1:grades:homework=9\n", "l1", NAME)

lines = st.binary().map(lambda data: data.replace(b"\n", b"") + b"\n")


def refused(sealed, host="l1", name=NAME):
    """The text of the error that is raised."""
    with pytest.raises(ValueError, match="it is sealed") as refusal:
        KEYS.open(sealed, host, name)
    return str(refusal.value)


class TestOneLine:
    def test_a_sealed_request_is_one_line_and_can_be_opened(self):
        assert re.fullmatch(rb"lonc:sealed:1:new:[A-Za-z0-9+/=]+:sealed:lonc\n", SEALED)
        assert KEYS.open(SEALED, "l1", NAME) == b"put:msu:student1:grades:homework=9\n"

    def test_the_same_request_is_never_sealed_the_same_way(self):
        assert len({KEYS.seal(b"x\n", "l1", NAME) for _ in range(100)}) == 100

    def test_the_cipher_is_the_documented_one(self):
        """Opened by another implementation."""
        from binascii import a2b_base64

        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        data = a2b_base64(SEALED.split(b":")[4])
        bound = b"lonc:sealed:1:new:l1:" + NAME.encode()
        assert AESGCM(NEW).decrypt(data[:12], data[12:], bound).startswith(b"put:msu")

    @given(lines, st.text(), st.text())
    def test_any_content_opens_to_itself_and_stays_within_the_length_limit(self, line, host, name):
        """Invariant: open(seal(x)) == x, and seal(x) is one line that is known to be sealed."""
        sealed = KEYS.seal(line, host, name)
        assert KEYS.open(sealed, host, name) == line
        assert sealed.find(b"\n") == len(sealed) - 1
        assert is_sealed(sealed)
        assert sealed_by(sealed) == "new"
        assert len(sealed) <= longest_sealed(len(line))

    @given(st.integers(0, len(SEALED) - 1), st.integers(1, 255))
    def test_a_line_with_any_byte_altered_neither_opens_nor_counts_as_plain(self, place, change):
        """Invariant: of all lines that differ from it in one byte, none opens, and none is plain."""
        altered = bytearray(SEALED)
        altered[place] ^= change
        refused(bytes(altered))
        assert is_sealed(bytes(altered))

    def test_an_unused_bit_of_base64_may_not_be_altered_either(self):
        for length in range(3):
            sealed = KEYS.seal(b"x" * length + b"\n", "l1", NAME)
            end = sealed.index(b":sealed:lonc") - 1
            for place in range(end - 4, end + 1):
                for other in b"ABCDefgh0123+/=":
                    altered = sealed[:place] + bytes([other]) + sealed[place + 1 :]
                    if altered != sealed:
                        refused(altered)

    @given(st.integers(0, len(SEALED) - 1))
    def test_a_line_cut_anywhere_does_not_open(self, place):
        """Invariant: no beginning of it opens, and none is a whole line."""
        refused(SEALED[:place])
        assert not SEALED[:place].endswith(b"\n")

    @given(st.integers(1, len(SEALED) - len(sealing.FOOT)))
    def test_a_line_without_its_beginning_neither_opens_nor_counts_as_plain(self, place):
        """Invariant: no end of it opens, nor is plain while the mark there is whole."""
        refused(SEALED[place:])
        assert is_sealed(SEALED[place:])

    @given(st.text(), st.text())
    def test_a_line_does_not_open_under_another_name_or_host(self, host, name):
        """Invariant: it opens for the host and name it was sealed for, and for no other."""
        if (host, name) != ("l1", NAME):
            refused(SEALED, host, name)

    def test_bytes_moved_from_host_to_name_make_another_line(self):
        refused(KEYS.seal(b"x\n", "l1", "1.x"), "l1:1", "x")

    def test_a_line_of_a_missing_key_does_not_open_and_the_error_names_the_key(self):
        stranger = Keyring(FILE, {"stranger": b"\x03" * 32}).seal(b"x\n", "l1", NAME)
        assert refused(stranger) == "it is sealed with the key stranger, which is not in keys"
        impostor = Keyring(FILE, {"new": b"\x03" * 32}).seal(b"x\n", "l1", NAME)
        assert "cut or altered" in refused(impostor)

    def test_the_first_key_seals_and_all_open(self):
        with_old = Keyring(FILE, {"old": OLD}).seal(b"x\n", "l1", NAME)
        assert (sealed_by(with_old), KEYS.first) == ("old", "new")
        assert KEYS.open(with_old, "l1", NAME) == b"x\n"

    @pytest.mark.parametrize(
        "line", [b"put:a\n", b"\n", b"", b"lonc:status\n", b"echo:lonc:sealed:1:new:x\n"]
    )
    def test_requests_in_clear_are_plain(self, line):
        assert not is_sealed(line)
        assert sealed_by(line) is None

    def test_the_longest_sealed_length_is_reached(self):
        keys = Keyring(FILE, {"k" * 32: NEW})
        for length in range(50):
            assert len(keys.seal(b"x" * length, "l1", NAME)) == longest_sealed(length)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys"


@pytest.fixture
def public():
    """A directory that other users can read."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        yield Path(place)


def written(file, text, mode=0o640):
    file.write_text(text)
    file.chmod(mode)
    return file


def fault(file):
    with pytest.raises(Misconfigured) as refusal:
        read_keys(file)
    return str(refusal.value)


class TestTheFile:
    def test_keys_comments_and_blank_lines(self, file):
        text = f"# ours\n\n  new:{NEW.hex()}\n\told:{OLD.hex().upper()} \n#{OLD.hex()}\n"
        keys = read_keys(written(file, text))
        assert keys.first == "new"
        assert keys.open(SEALED, "l1", NAME)
        assert keys.open(Keyring(FILE, {"old": OLD}).seal(b"x\n", "l1", NAME), "l1", NAME) == b"x\n"

    @pytest.mark.parametrize(
        "line",
        [
            "new",
            f"new:{NEW.hex()[1:]}",
            f"new:{NEW.hex()}0",
            f"new:{NEW.hex()[1:]}g",
            f":{NEW.hex()}",
            f"{'k' * 33}:{NEW.hex()}",
            f"n_w:{NEW.hex()}",
            f"new:{NEW.hex()} # ours",
            NEW.hex(),
        ],
    )
    def test_an_invalid_key_is_reported_by_its_line_without_its_text(self, file, line):
        said = fault(written(file, f"# keys\nold:{OLD.hex()}\n{line}\n"))
        assert said == f"{file}:3: this is not a key, KEYID:64 hex digits"

    def test_an_id_that_is_used_twice_is_an_error(self, file):
        said = fault(written(file, f"a:{NEW.hex()}\na:{OLD.hex()}\n"))
        assert said == f"{file}:2: the key a appears twice"

    @pytest.mark.parametrize("text", ["", "# none\n\n"])
    def test_a_file_without_keys(self, file, text):
        assert f"{file}: it has no key" in fault(written(file, text))

    @pytest.mark.parametrize("mode", [0o641, 0o642, 0o644])
    def test_a_key_file_that_others_can_access_is_refused(self, file, mode):
        said = fault(written(file, f"a:{NEW.hex()}\n", mode))
        assert said == f"{file}: its mode {mode:04o} lets other users read the keys: chmod o= {file}"

    @pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
    def test_a_fifo_is_refused_and_does_not_block(self, file, make):
        make(file)
        assert fault(file) == f"{file}: it is not a regular file"

    def test_a_missing_or_unreadable_key_file_is_an_error(self, public):
        file = public / "keys"
        assert fault(file) == f"{file}: No such file or directory"
        written(file, f"a:{NEW.hex()}\n", 0o600)
        if os.getuid() == 0:
            assert as_nobody(lambda: fault(file)) == f"{file}: Permission denied"

    def test_a_missing_library_is_an_error_with_a_sentence(self, file, monkeypatch):
        written(file, f"a:{NEW.hex()}\n")
        monkeypatch.setitem(sys.modules, "Crypto.Cipher", None)
        assert fault(file) == f"{file}: sealing needs pycryptodome: pip install pycryptodome"

    def test_missing_keys_are_an_error_only_if_they_are_needed(self, file):
        require_keys(None)
        with pytest.raises(CannotStart, match="keys: No such file or directory"):
            require_keys(file)
        require_keys(written(file, f"a:{NEW.hex()}\n"))

    def test_the_library_is_loaded_only_if_there_are_keys(self, file):
        written(file, f"a:{NEW.hex()}\n")
        command = python_calling(print_when_the_library_of_keys_is_imported, file)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout.split() == ["False", "True"]


class TestANewKey:
    def test_the_key_file_is_created(self, file, tmp_path):
        key_id = add_key(file, tmp_path)
        assert re.fullmatch(r"20\d{6}-[0-9a-f]{6}", key_id)
        assert read_keys(file).first == key_id
        assert stat.S_IMODE(file.stat().st_mode) == 0o640
        assert os.listdir(tmp_path) == ["keys"]

    @pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
    def test_a_new_file_gets_the_owner_of_its_directory(self, file, tmp_path):
        os.chown(tmp_path, 65534, 65533)
        add_key(file, tmp_path)
        assert (file.stat().st_uid, file.stat().st_gid) == (65534, 65533)

    def test_a_new_file_stays_ours_if_its_owner_cannot_be_changed(self, public):
        file = public / "keys"

        def add():
            add_key(file, Path("/"))
            return f"{file.stat().st_uid == os.getuid()} {stat.S_IMODE(file.stat().st_mode):o}"

        assert as_nobody(add) == "True 640"

    def test_a_new_key_is_put_before_the_old_ones_and_all_else_is_kept(self, file, tmp_path):
        written(file, f"# ours\n\nb:{OLD.hex()}\na:{NEW.hex()}\n# end", 0o600)
        if os.getuid() == 0:
            os.chown(file, 65534, 65533)
        before = file.stat()
        key_id = add_key(file, tmp_path)
        text = file.read_text()
        assert re.fullmatch(
            rf"# ours\n\n{key_id}:[0-9a-f]{{64}}\nb:{OLD.hex()}\na:{NEW.hex()}\n# end", text
        )
        after = file.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (
            before.st_mode,
            before.st_uid,
            before.st_gid,
        )

    def test_a_new_key_goes_through_a_link_into_its_target(self, file, tmp_path):
        target = tmp_path / "elsewhere"
        file.symlink_to(target)
        add_key(file, tmp_path)
        assert file.is_symlink()
        assert target.read_text() == file.read_text()

    def test_no_two_keys_are_the_same(self, file, tmp_path, restore_afterwards):
        ids = iter(["one", "one", "two"])
        restore_afterwards(sealing)
        sealing._new_id = lambda: next(ids)
        assert [add_key(file, tmp_path), add_key(file, tmp_path)] == ["one", "two"]
        one, two = re.findall(r"^(?:one|two):(\w+)$", file.read_text(), re.M)
        assert one != two

    def test_a_faulty_key_file_is_not_changed(self, file, tmp_path):
        written(file, "nonsense\n")
        with pytest.raises(Misconfigured, match="keys:1:"):
            add_key(file, tmp_path)
        assert file.read_text() == "nonsense\n"
        assert os.listdir(tmp_path) == ["keys"]

    def test_two_keys_added_at_the_same_time_are_both_kept(self, file, tmp_path):
        (tmp_path / ".keys.new").touch()
        with pytest.raises(FileExistsError):
            add_key(file, tmp_path)
        assert os.listdir(tmp_path) == [".keys.new"]  # it is the other's

    def test_the_content_is_synced_before_the_file_is_renamed(self, file, tmp_path, monkeypatch):
        done = []
        fsync, rename = os.fsync, os.rename

        def note(fd):
            done.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
            fsync(fd)

        def note_rename(old, new, **directories):
            assert (tmp_path / old).stat().st_size > 64
            done.append("rename")
            rename(old, new, **directories)

        monkeypatch.setattr(os, "fsync", note)
        monkeypatch.setattr(os, "rename", note_rename)
        add_key(file, tmp_path)
        assert done == [".keys.new", "rename", tmp_path.name]

    def test_a_new_file_is_never_readable_for_others(self, file, tmp_path, monkeypatch):
        seen = []
        urandom = os.urandom

        def look(size):
            seen.append(stat.S_IMODE((tmp_path / ".keys.new").stat().st_mode))
            return urandom(size)

        monkeypatch.setattr(os, "urandom", look)

        def add():
            os.umask(0)
            add_key(file, tmp_path)
            return f"{max(seen) & 0o007:o} {stat.S_IMODE(file.stat().st_mode):o}"

        assert in_child(add) == "0 640"
