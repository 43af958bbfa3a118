"""The dialogues as lond hears them, and the keys that both sides derive from the ids."""

import re

import pytest
from support.machine import free_port
from support.perl import needs_cipher, needs_perl

pytestmark = [needs_perl, needs_cipher]

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
    machine.configure(loncKeyMode=mode, loncMaxConnections=1)
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
    machine.configure(loncKeyMode=mode, loncMaxConnections=1)
    site.hosts(l1=("one.example.org", "127.0.0.1"))
    site.start_lond("l1", address="127.0.0.1", dialogue="classic")
    machine.start()
    ask(site, lonnet=1)


@pytest.mark.parametrize(("own", "host"), [("msu-A_9", "Site-9_x"), ("GpqZ", "zZaF_-1"), ("a", "b")])
@pytest.mark.parametrize("dialogue", ["classic", "later"])
def test_any_letters_of_the_ids_give_both_sides_the_same_key(site, own, host, dialogue):
    machine = site.machine
    mode = {"classic": "classic", "later": "insecure"}[dialogue]
    machine.configure(lonHostID=own, loncKeyMode=mode)
    site.hosts(**{host: ("one.example.org", machine.address(1))})
    site.table.write_text(f"{own}:dom:access:a1.example.org:127.0.0.1\n")
    site.start_lond(host, address=machine.address(1), dialogue=dialogue)
    machine.start()
    ask(site, lonnet=1, id_=host)


def test_the_ids_of_one_dns_name_share_the_key_of_the_first_id(site):
    machine = site.machine
    machine.configure(loncKeyMode="insecure", loncSocketName="dns", loncMaxConnections=1)
    site.hosts(**{id_: ("one.example.org", machine.address(1)) for id_ in ("l1", "l3", "l5")})
    site.start_lond("l1", "l3", "l5", address=machine.address(1))
    machine.start()
    for id_ in ("l5", "l1", "l3", "l5"):
        ask(site, lonnet=2, id_=id_)
    assert heard(site) == [*BEGINNING, *LATER, "ekey"]
