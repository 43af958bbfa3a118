import json
import os
import resource

import pytest
from support.machine import in_child

from lonc.configuration import Settings
from lonc.errors import CannotStart
from lonc.parent.preflight import require_usable, within_limits


def limited(open_files, hosts, **settings):
    """With that limit of open files: the clients that `within_limits` allows, or its refusal."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, open_files))
            try:
                said = within_limits(Settings(**settings), hosts).max_clients
                assert resource.getrlimit(resource.RLIMIT_NOFILE) == (open_files, open_files)
            except CannotStart as error:
                said = str(error)
            os.write(writable, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.close(writable)
    with open(readable) as answer:
        said = json.load(answer)
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize(
    ("open_files", "hosts", "settings", "said"),
    [
        (10_000, 500, {}, 1000),
        (1037, 10, {}, 1000),
        (1036, 10, {}, 999),
        (256, 10, {}, 219),
        (1128, 500, {"max_clients": 5}, 5),
        (1127, 500, {}, "500 hosts need 1128 open files, and the limit is 1127: raise it"),
        (90, 16, {}, "16 hosts need 160 open files, and the limit is 90: raise it"),
        (
            132,
            1,
            {"max_connections": 100},
            "a child needs 133 open files, and the limit is 132: raise it",
        ),
    ],
)
def test_the_limit_of_open_files_bounds_clients_and_hosts(open_files, hosts, settings, said):
    assert limited(open_files, hosts, **settings) == said


@pytest.mark.parametrize(("open_files", "warnings"), [(1037, 0), (1036, 1)])
def test_fewer_clients_than_configured_are_a_warning(open_files, warnings, caplog):
    def warn():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, open_files))
        within_limits(Settings(), 1)
        return str(len(caplog.records))

    assert in_child(warn) == str(warnings)


def test_a_missing_key_file_is_refused(tmp_path):
    settings = Settings(key_mode="classic", delayed_key_file=tmp_path / "missing")
    with pytest.raises(CannotStart, match="missing"):
        require_usable(settings)


def test_the_address_to_connect_from_must_be_one_of_this_machine():
    assert limited(5000, 1, bind_address="127.9.9.9") == 1000
    why = "cannot connect from 192.0.2.1 (loncBindAddress): Cannot assign requested address"
    assert limited(5000, 1, bind_address="192.0.2.1") == why
