"""The default of loncMaxClientsPerUser, from the users of this machine as the test has them."""

import grp
import os
import pwd
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lonc.configuration import Settings
from lonc.parent.client_limit import with_user_limit


@pytest.fixture
def users(monkeypatch):
    """A function: the users of the group with the number 70, with that as their own or as members."""

    def set_users(own, members=()):
        numbers = {name: number for number, name in enumerate(["root", "web", "alice", "bob"])}
        everybody = [
            SimpleNamespace(pw_name=name, pw_uid=number, pw_gid=70 if name in own else 1)
            for name, number in numbers.items()
        ]
        by_name = {each.pw_name: each for each in everybody}
        monkeypatch.setattr(pwd, "getpwall", lambda: everybody)
        monkeypatch.setattr(pwd, "getpwnam", lambda name: by_name[name])
        groups = {70: SimpleNamespace(gr_mem=list(members))}
        monkeypatch.setattr(grp, "getgrgid", lambda number: groups[number])

    return set_users


@pytest.fixture
def settings(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "getegid", lambda: 70)
    return Settings(socket_directory=tmp_path)


@pytest.mark.parametrize(
    ("own", "members", "limit"),
    [
        ([], [], 1000),
        (["web"], [], 1000),
        (["web"], ["web"], 1000),
        (["root", "web"], ["root"], 1000),
        (["web"], ["gone"], 1000),
        (["web", "alice"], [], 500),
        (["web"], ["alice"], 500),
        ([], ["alice", "bob"], 500),
    ],
)
def test_half_of_all_if_the_group_has_several_users(settings, users, own, members, limit):
    users(own, members)
    assert with_user_limit(settings).max_clients_per_user == limit


def test_the_group_of_a_set_group_id_directory_is_that_of_the_sockets(
    settings, users, tmp_path, monkeypatch
):
    users(["web", "alice"])
    monkeypatch.setattr(os, "getegid", lambda: 71)
    assert with_user_limit(settings).max_clients_per_user == 1000  # no such group
    tmp_path.chmod(0o2750)
    found = SimpleNamespace(st_mode=0o42750, st_gid=70)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", lambda _: found)
        assert with_user_limit(settings).max_clients_per_user == 1000  # as for the children before
        limited = with_user_limit(replace(settings))  # at a reload
    assert limited.max_clients_per_user == 500


def test_sockets_of_one_user_only(users, settings, tmp_path):
    users(["web", "alice"])
    settings = Settings(socket_directory=tmp_path, socket_mode=0o600)
    assert with_user_limit(settings).max_clients_per_user == 1000


def test_a_value_that_is_set_stays(users):
    users(["web", "alice"])
    assert with_user_limit(Settings(max_clients_per_user=7)).max_clients_per_user == 7


def test_at_least_one(users, settings, tmp_path):
    users(["web", "alice"])
    settings = Settings(socket_directory=tmp_path, max_clients=1)
    assert with_user_limit(settings).max_clients_per_user == 1
