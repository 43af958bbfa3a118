"""Whoever lists `delayed/` or reads the permanent log learns of a secret request only its command."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.delayed_files import write_keys

from lonc.configuration import Settings
from lonc.spool import spool

SECRET = b"pw7xQ"

# A request with SECRET in it, and the command in the name of its file.
REQUESTS = (
    (b"put:msu:u:pw7xQ", "put"),
    (b"a:pw7xQ", "a"),
    (b"pw:pw7xQ", "pw"),
    (b"auth pw7xQ", "auth"),
    (b"auth\tpw7xQ", "auth"),
    (b"put x:pw7xQ", "put"),
    (b":pw7xQ", ""),
    (b"encrypt:pw7xQ", "encrypt"),
    (b"encrypt:a:pw7xQ", "encrypt"),
    (b"encrypt:auth pw7xQ", "encrypt"),
    (b"encrypt::pw7xQ", "encrypt"),
    (b"sethost:l1:encrypt:auth:u:pw7xQ", "sethost"),
    (b"a_command_longer_than_names_have:pw7xQ", "a_command_longer"),
)


@pytest.fixture(params=["sealed", "plain"])
def settings(request, tmp_path):
    (tmp_path / "sockets").mkdir()
    (tmp_path / "daemons/logs").mkdir(parents=True)
    made = Settings("a1", socket_directory=tmp_path / "sockets", daemons=tmp_path / "daemons")
    keys = write_keys(tmp_path / "keys", "first") if request.param == "sealed" else None
    return replace(made, delayed_key_file=keys)


@pytest.mark.parametrize(("request_", "command"), REQUESTS)
def test_a_name_has_only_the_command(settings, request_, command):
    spool.save(settings, request_, "l1")
    (text,) = os.listdir(settings.delayed_directory)
    name = spool.Name.parse(text)
    assert name is not None
    assert name.command == command
    assert SECRET.decode() not in text


@pytest.mark.parametrize("request_", [each for each, _ in REQUESTS if b"encrypt:" in each])
def test_a_record_of_what_is_secret_has_only_the_command(settings, request_):
    for kind in (spool.DELAYED, spool.FAILED, spool.SENT):
        spool.record(settings, kind, "l1", request_)
    said = settings.perm_log.read_bytes()
    assert said.count(b"\n") == 3
    # Of `encrypt:COMMAND` the command is recorded, even if there is nothing else.
    assert (SECRET in said) == (request_ == b"encrypt:pw7xQ")


@pytest.mark.parametrize("request_", [each for each, _ in REQUESTS if b"encrypt:" not in each])
def test_a_record_of_a_sealed_request_has_only_the_command(tmp_path, request_):
    settings = Settings("a1", daemons=tmp_path, delayed_key_file=Path(os.devnull))
    (tmp_path / "logs").mkdir()
    spool.record(settings, spool.DELAYED, "l1", request_)
    assert SECRET not in settings.perm_log.read_bytes()
