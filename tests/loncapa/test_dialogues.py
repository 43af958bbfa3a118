"""The dialogues as lond hears them, and the keys that both sides derive from the ids."""

import re

import pytest
from support.machine import free_port
from support.perl import needs_cipher, needs_perl

pytestmark = [needs_perl, needs_cipher]

# This lond answers `auth` in clear, as it is believed of LON-CAPA's.
PLAIN = {"loncAllowPlainReplies": 1}
BEGINNING = ["init::VERSION", "CHALLENGE"]
LATER = ["version", "sethost:l1"]


def heard(site):
    """The lines of the dialogues, with CHALLENGE and VERSION for what differs each time."""
    lines = [line for host, _, line in site.recorded() if host == "-"]
    lines = ["CHALLENGE" if line.isdigit() else line for line in lines]
    return [re.sub("^(init:.*:).*", r"\1VERSION", line) for line in lines]


def ask(site, lonnet, id_="l1"):
    """A request in clear and both kinds of enciphered ones; each reply must be the right one."""
    secret = [
        "auth:dom:user:secret",
        "eget:dom:user:passwd:secret",
        "eget:dom:user:passwd:secre",
        "eget:a",
    ]
    requests = ["ping", *(f"encrypt:{request}" for request in secret)]
    replies = site.client("reply", id_, *requests, lonnet=lonnet).splitlines()
    assert replies == [id_, *(f"{id_}:{request[::-1]}" for request in secret)]


@pytest.mark.parametrize(
    ("mode", "dialogue", "lines"),
    [
        ("classic", "classic", ["init", "CHALLENGE", "ekey"]),
        ("insecure", "later", [*BEGINNING, *LATER, "ekey"]),
        ("local", "later", ["init:local:FILE:VERSION", *LATER]),
    ],
)
def test_what_lond_hears(site, mode, dialogue, lines):
    machine = site.machine
    machine.port = free_port("127.0.0.1")
    machine.configure(loncKeyMode=mode, loncMaxConnections=1, **PLAIN)
    site.hosts(l1=("one.example.org", "127.0.0.1"))
    site.start_lond("l1", address="127.0.0.1", dialogue=dialogue)
    machine.start()
    ask(site, lonnet=1)
    assert heard(site) == lines
    assert machine.socket_files() == ["l1"]  # lond has removed the key file


@pytest.mark.parametrize("mode", ["insecure", "local"])
def test_an_old_lond_is_spoken_to_in_its_own_way(site, mode):
    machine = site.machine
    machine.port = free_port("127.0.0.1")
    machine.configure(loncKeyMode=mode, loncMaxConnections=1, **PLAIN)
    site.hosts(l1=("one.example.org", "127.0.0.1"))
    site.start_lond("l1", address="127.0.0.1", dialogue="classic")
    machine.start()
    ask(site, lonnet=1)


@pytest.mark.parametrize(("own", "host"), [("msu-A_9", "Site-9_x"), ("GpqZ", "zZaF_-1"), ("a", "b")])
@pytest.mark.parametrize("dialogue", ["classic", "later"])
def test_any_letters_of_the_ids_give_both_sides_the_same_key(site, own, host, dialogue):
    machine = site.machine
    mode = {"classic": "classic", "later": "insecure"}[dialogue]
    machine.configure(lonHostID=own, loncKeyMode=mode, **PLAIN)
    site.hosts(**{host: ("one.example.org", machine.address(1))})
    site.table.write_text(f"{own}:dom:access:a1.example.org:127.0.0.1\n")
    site.start_lond(host, address=machine.address(1), dialogue=dialogue)
    machine.start()
    ask(site, lonnet=1, id_=host)


def test_the_ids_of_one_dns_name_share_the_key_of_the_first_id(site):
    machine = site.machine
    machine.configure(loncKeyMode="insecure", loncSocketName="dns", loncMaxConnections=1, **PLAIN)
    site.hosts(**{id_: ("one.example.org", machine.address(1)) for id_ in ("l1", "l3", "l5")})
    site.start_lond("l1", "l3", "l5", address=machine.address(1))
    machine.start()
    for id_ in ("l5", "l1", "l3", "l5"):
        ask(site, lonnet=2, id_=id_)
    assert heard(site) == [*BEGINNING, *LATER, "ekey"]


def test_a_reply_in_clear_to_an_enciphered_request_is_none_unless_that_is_allowed(site):
    machine = site.machine
    machine.configure(loncKeyMode="insecure", loncMaxConnections=1)
    site.hosts(l1=("one.example.org", machine.address(1)))
    site.start_lond("l1", address=machine.address(1))
    machine.start()
    requests = ["encrypt:eget:dom:user:passwd:a", "encrypt:auth:dom:user:secret", "ping"]
    replies = site.client("reply", "l1", *requests, lonnet=1).splitlines()
    assert replies == ["l1:a:dwssap:resu:mod:tege", "con_lost", "l1"]


@pytest.mark.parametrize("settings", [{}, {"loncKeyMode": "auto"}, {"loncKeyMode": "local"}])
def test_this_machine_is_asked_at_127_0_0_1_in_local_mode(site, settings):
    machine = site.machine
    machine.port = free_port("127.0.0.1")
    machine.configure(lonSockCreate=machine.sockets / "create", **PLAIN, **settings)
    # Its table has the address that the other hosts ask.
    site.hosts(
        a1=("own.example.org", machine.address(2)),
        a3=("own.example.org", machine.address(2)),
    )
    site.start_lond("a1", "a3", address="127.0.0.1")
    machine.start()
    for id_ in ("a1", "a3"):
        ask(site, lonnet=2, id_=id_)
    assert heard(site) == ["init:local:FILE:VERSION", "version", "sethost:a1"]


class TestAnotherIdThanWeThink:
    def test_of_this_machine(self, site):
        machine = site.machine
        site.hosts(l1=("one.example.org", machine.address(1)))
        site.table.write_text("a2:dom:access:a1.example.org:127.0.0.1\n")
        site.start_lond("l1", address=machine.address(1), dialogue="classic")
        machine.start()
        requests = ["encrypt:eget:dom:user:passwd:a"] * 3
        assert set(site.client("reply", "l1", *requests).splitlines()) == {"unknown_cmd"}
        assert site.client("reply", "l1", "ping") == "l1"
        advice = "lond may know this host under another id; try loncKeyMode insecure"
        assert machine.log().count(f"the key does not fit: {advice}") == 1
        assert machine.status()["wrong_keys"] >= 1

    def test_of_a_later_lond_that_was_not_asked_for_a_host(self, site):
        machine = site.machine
        site.hosts(l1=("one.example.org", machine.address(1)))
        site.start_lond("l1", address=machine.address(1), dialogue="later")
        machine.start()  # in the classic way, without `sethost`
        done = machine.command("ping")
        assert done.returncode == 1
        assert b"the reply is of default: lond was not asked for a host" in done.stderr
        assert site.client("reply", "l1", "encrypt:eget:dom:user:passwd:a") == "unknown_cmd"
        assert "the key does not fit" in machine.log()
        machine.configure(loncKeyMode="insecure", **PLAIN)
        assert machine.command("reload").returncode == 0
        assert machine.command("ping").returncode == 0
        ask(site, lonnet=1)
