import errno
import os
import re
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from support.certificates import Office
from support.machine import as_nobody

from lonc.configuration import Settings
from lonc.errors import CannotStart, ProtocolError
from lonc.hosts import Host
from lonc.wire.key_exchange import (
    KEY_FILE,
    KeyExchange,
    is_asked_locally,
    remove_key_files,
    require_certificates,
)
from lonc.wire.lond_protocol import INIT

HOST = Host("l1", "d", "library", "l1.example", None, 1)


@pytest.fixture(scope="module")
def office(tmp_path_factory):
    return Office(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def choose(tmp_path, office):
    """How a connection begins, by the settings and the address of lond."""

    def choose(mode, address, certified=False, host=HOST, **settings):
        files = office.issue("lonc.example")[:3] if certified else (None, None, None)
        settings |= dict(zip(("certificate", "private_key", "authority"), files, strict=True))
        made = Settings(
            "a1",
            socket_directory=tmp_path,
            key_mode=mode,
            certificate_directory=Path("/"),
            **settings,
        )
        return KeyExchange(host, made).choose(address)

    return choose


def test_classic_is_the_dialogue_of_2003_for_every_lond(choose):
    assert choose("classic", "127.0.0.1") is INIT
    assert choose("classic", "192.0.2.1", certified=True) is INIT


@pytest.mark.parametrize(
    ("mode", "address", "certified", "how"),
    [
        ("auto", "127.0.0.1", False, "insecure"),
        ("auto", "127.0.0.1", True, "ssl"),
        ("auto", "192.0.2.1", True, "ssl"),
        ("auto", "127.0.0.2", True, "ssl"),
        ("auto", "192.0.2.1", False, "insecure"),
        ("local", "127.0.0.1", True, "local"),
        ("ssl", "127.0.0.1", True, "ssl"),
        ("insecure", "127.0.0.1", True, "insecure"),
    ],
)
def test_the_mode_depends_on_settings_and_address(choose, mode, address, certified, how):
    opening = choose(mode, address, certified)
    assert opening.mode == how
    opening.on_key_exchange_ended()


@pytest.mark.parametrize("certified", [False, True])
def test_auto_is_local_where_the_table_has_the_address_of_this_machine(choose, certified):
    opening = choose("auto", "127.0.0.1", certified, host=replace(HOST, address="127.0.0.1"))
    assert opening.mode == "local"
    opening.on_key_exchange_ended()


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ("classic", "classic"),
        ("auto", "local"),
        ("local", "local"),
        ("insecure", "local"),
        ("ssl", "ssl"),
    ],
)
def test_this_machine_is_asked_in_local_mode_in_most_modes(choose, mode, how):
    own = replace(HOST, is_own=True)
    opening = choose(mode, "127.0.0.1", certified=True, host=own)
    assert opening.mode == how
    opening.on_key_exchange_ended()
    locally = is_asked_locally(own, Settings(key_mode=mode))
    assert locally is (how == "local")
    assert not is_asked_locally(HOST, Settings(key_mode=mode))


def test_a_forbidden_mode_is_an_error_with_a_sentence(choose):
    with pytest.raises(
        ProtocolError, match="no certificates are configured, and loncAllowInsecure is 0"
    ):
        choose("auto", "192.0.2.1", allow_insecure=False)
    with pytest.raises(
        ProtocolError, match=r"loncKeyMode is local, and 127\.0\.0\.2 is not 127\.0\.0\.1"
    ):
        choose("local", "127.0.0.2")


@pytest.mark.parametrize("name", [".l1", "a..b", "x" * 64, "ä" * 64, "l\0"])
def test_a_name_that_cannot_be_in_a_certificate_is_an_error_with_a_sentence(choose, name):
    with pytest.raises(ProtocolError, match="no certificate can be for '"):
        choose("ssl", "192.0.2.1", certified=True, host=replace(HOST, dnsname=name))


def test_the_key_file_is_new_each_time_and_closed_to_others(choose, tmp_path):
    openings = [choose("local", "127.0.0.1") for _ in range(20)]
    files = sorted(tmp_path.iterdir())
    assert len(files) == len({opening.key for opening in openings}) == 20
    for opening in openings:
        word, mode, name, version = opening.line.rstrip(b"\n").split(b":")
        file = Path(name.decode())
        assert (word, mode) == (b"init", b"local")
        assert re.fullmatch(rb"[0-9.]+", version)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_bytes() == opening.key
        assert re.fullmatch(rb"[0-9a-f]{32}", opening.key)
        assert not opening.key_file_taken()
        opening.on_key_exchange_ended()
        assert not file.exists()
        assert opening.key_file_taken()
        opening.on_key_exchange_ended()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_a_key_file_that_cannot_be_written_is_a_sentence(choose, tmp_path):
    tmp_path.chmod(0o555)

    def try_it():
        try:
            choose("local", "127.0.0.1")
        except ProtocolError as error:
            return str(error)
        return "written"

    assert re.fullmatch("cannot write the key file .*: Permission denied", as_nobody(try_it))


def test_a_key_file_of_which_nothing_is_known_is_not_taken(choose, tmp_path):
    opening = choose("local", "127.0.0.1")
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    assert not opening.key_file_taken()


def test_only_key_files_of_killed_processes_are_removed(tmp_path):
    (tmp_path / f"{KEY_FILE}0123").write_bytes(b"0" * 32)
    (tmp_path / ".l1").touch()
    (tmp_path / "l1").touch()
    remove_key_files(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".l1", "l1"]


def test_a_fallback_to_insecure_needs_the_setting(choose):
    for mode, address in (("ssl", "192.0.2.1"), ("local", "127.0.0.1")):
        for allowed in (True, False):
            opening = choose(mode, address, certified=True, allow_insecure=allowed)
            assert opening.insecure_fallback is allowed
            opening.on_key_exchange_ended()


def test_needed_certificates_are_checked_before_the_start(office, tmp_path):
    files = office.issue("lonc.example")._replace(authority=tmp_path / "none.pem")[:3]
    names = dict(zip(("certificate", "private_key", "authority"), files, strict=True))
    for mode in ("auto", "ssl"):
        with pytest.raises(CannotStart, match=r"cannot read .*none\.pem"):
            require_certificates(Settings(key_mode=mode, certificate_directory=Path("/"), **names))
    for mode in ("classic", "insecure", "local"):
        require_certificates(Settings(key_mode=mode, certificate_directory=Path("/"), **names))


def test_missing_certificates_fail_the_attempt_until_they_are_back(office, tmp_path):
    certificate, key, authority = office.issue("lonc.example")[:3]
    moved = tmp_path / "certificate.pem"
    settings = Settings(
        "a1",
        key_mode="ssl",
        certificate_directory=Path("/"),
        certificate=moved,
        private_key=key,
        authority=authority,
    )
    key_exchange = KeyExchange(HOST, settings)
    with pytest.raises(ProtocolError, match="No such file"):
        key_exchange.choose("192.0.2.1")
    moved.write_bytes(certificate.read_bytes())
    assert key_exchange.choose("192.0.2.1").mode == "ssl"


def test_if_writing_a_key_file_fails_none_is_left(choose, tmp_path, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ProtocolError, match=r"cannot write the key file .*: No space left"):
        choose("local", "127.0.0.1")
    assert os.listdir(tmp_path) == []


def test_an_existing_file_is_not_used_as_a_key_file(choose, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "urandom", bytes)
    existing = tmp_path / f"{KEY_FILE}{'0' * 32}"
    existing.write_text("another's")
    with pytest.raises(ProtocolError, match=r"cannot write the key file .*: File exists"):
        choose("local", "127.0.0.1")
    assert existing.read_text() == "another's"


def test_certificates_are_read_once(office, tmp_path):
    names = ("certificate.pem", "key.pem", "ca.pem")
    copies = [
        tmp_path / shutil.copy2(file, tmp_path / name)
        for file, name in zip(office.issue("lonc.example")[:3], names, strict=True)
    ]
    settings = Settings(
        "a1",
        key_mode="ssl",
        certificate_directory=Path("/"),
        **dict(zip(("certificate", "private_key", "authority"), copies, strict=True)),
    )
    key_exchange = KeyExchange(HOST, settings)
    key_exchange.choose("192.0.2.1")
    for copy in copies:
        copy.unlink()
    assert key_exchange.choose("192.0.2.1").mode == "ssl"
