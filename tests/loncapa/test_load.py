"""Perl on both ends: each reply is that of its request, whatever happens to lonc and lond meanwhile."""

import pytest
from support.machine import eventually, free_port
from support.perl import needs_cipher, needs_perl

pytestmark = needs_perl

REQUESTS = 2000
NAMES = {
    "l1": "one.example.org",
    "l2": "two.example.org",
    "l3": "one.example.org",
    "l4": "two.example.org",
}
DNS = {"loncSocketName": "dns"}
# Name of the case: version of lonnet, settings. In each there are two londs; with lonnet 2, each of them
# has two ids behind one DNS name.
CASES = {
    "id-classic": (1, {"loncKeyMode": "classic"}),
    "dns-insecure": (2, {"loncKeyMode": "insecure", **DNS}),
    "dns-local": (2, {"loncKeyMode": "local", **DNS}),
    "ondemand": (2, {"loncKeyMode": "insecure", "loncChildren": "ondemand", **DNS}),
}


@pytest.fixture(params=CASES)
def case(request, site):
    """The site, the version of lonnet, the ids, and a function that starts both londs."""
    machine = site.machine
    lonnet, settings = CASES[request.param]
    ids = sorted(NAMES) if lonnet == 2 else ["l1", "l2"]
    names = sorted(set(NAMES.values()))
    if settings["loncKeyMode"] == "local":
        machine.port = free_port("127.0.0.1")  # only there is that mode possible
        address = dict.fromkeys(names, "127.0.0.1")
        served = [("127.0.0.1", ids)]
    else:
        address = {name: machine.address(number) for number, name in enumerate(names, start=1)}
        served = [(address[name], [id_ for id_ in ids if NAMES[id_] == name]) for name in names]
    if lonnet == 2:
        settings = {**settings, "lonSockCreate": machine.directory / "create"}
    machine.configure(loncRetryDelay="0.1", loncRetryMaxDelay="0.2", **settings)
    site.hosts(**{id_: (NAMES[id_], address[NAMES[id_]]) for id_ in ids})
    dialogue = "classic" if lonnet == 1 else "later"

    def start_londs():
        return [site.start_lond(*own, address=place, dialogue=dialogue) for place, own in served]

    return site, lonnet, ids, start_londs


@needs_cipher
def test_each_reply_is_that_of_its_request_while_signals_come(case):
    site, lonnet, ids, start_londs = case
    start_londs()
    site.machine.start()
    load = site.start_load(*ids, lonnet=lonnet, requests=REQUESTS, signals="HUP,USR1,USR2")
    result = site.figures(load)
    assert (result["done"], result["lost"], result["retried"]) == (REQUESTS, 0, 0), result
    assert REQUESTS / 6 < result["enciphered"] < REQUESTS / 4
    assert result["HUP"] > 0


@needs_cipher
@pytest.mark.parametrize("case", ["id-classic", "ondemand"], indirect=True)
def test_a_host_goes_down_and_comes_up_under_load(case):
    site, lonnet, ids, start_londs = case
    londs = start_londs()
    site.machine.start()
    over = site.machine.directory / "over"
    load = site.start_load(*ids, lonnet=lonnet, until=over)
    for lond in londs:
        site.end(lond)
    assert load.stdout.readline() == "lost\n"
    start_londs()
    for id_ in ids:
        eventually(lambda id_=id_: site.client("reply", id_, "ping", lonnet=lonnet) == id_)
    over.touch()
    result = site.figures(load)
    assert result["lost"] > 0
    assert result["done"] > 0
    assert result["retried"] == 0
    again = site.figures(site.start_load(*ids, lonnet=lonnet, requests=200))
    assert (again["done"], again["lost"]) == (200, 0)


def test_delayed_transactions_of_two_ids_behind_one_name_keep_their_order(site):
    machine = site.machine
    machine.configure(
        loncDelayedInterval="0.2",
        loncRetryDelay="0.1",
        loncRetryMaxDelay="0.2",
        loncKeyMode="insecure",
        **DNS,
    )
    site.hosts(l1=("one.example.org", machine.address(1)), l3=("one.example.org", machine.address(1)))
    machine.start()
    # DEAD, so that requests end at once.
    eventually(lambda: machine.status("one.example.org")["state"] == "DEAD")
    saving = [site.client("critical", id_, "user", 30, lonnet=2, wait=False) for id_ in ("l1", "l3")]
    for process in saving:
        assert site.output(process).splitlines() == ["con_delayed"] * 30
    assert site.counts("perm") == {"D": 60, "F": 0, "S": 0, "other": 0, "unsent": 60}
    site.start_lond("l1", "l3", address=machine.address(1))
    for name in ("HUP", "USR1", "USR2", "HUP"):
        site.client("signal", name)
    eventually(lambda: site.counts("perm")["unsent"] == 0, 20)
    in_order = [f"put:dom:user:nohist:number={number}" for number in range(1, 31)]
    for id_ in ("l1", "l3"):
        assert [request for host, _, request in site.recorded() if host == id_] == in_order
    assert list((machine.sockets / "delayed").glob("[!.]*")) == []


def test_a_client_asks_lonsockcreate_for_the_socket_of_a_host_that_the_table_has_just_got(site):
    machine = site.machine
    machine.configure(
        loncKeyMode="insecure",
        loncChildren="ondemand",
        lonSockCreate=machine.directory / "create",
        **DNS,
    )
    site.hosts(l1=("one.example.org", machine.address(1)))
    site.start_lond("l2", "l4", address=machine.address(2))
    machine.start()
    two = ("two.example.org", machine.address(2))
    site.hosts(l1=("one.example.org", machine.address(1)), l2=two, l4=two)
    assert not (machine.sockets / "two.example.org").exists()
    asking = site.client("reply", "l4", "ping", lonnet=2, wait=False)
    assert site.client("signal", "USR2") == str(machine.lonc.pid)
    assert site.output(asking) == "l4"
