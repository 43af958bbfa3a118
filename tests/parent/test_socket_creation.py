"""The lines of lonSockCreate and their answers: hosts are fakes."""

from dataclasses import replace
from typing import Any

import pytest
from support.asking import Order
from support.still_loop import StillLoop

from lonc.configuration import Settings
from lonc.errors import CannotStart
from lonc.hosts import Host
from lonc.monitoring.status import Phase
from lonc.parent import socket_creation
from lonc.parent.reload import PhaseNotifier
from lonc.parent.served_hosts import ServedHosts
from lonc.parent.socket_creation import SocketCreation


class FakeSupervisor:
    def __init__(self, host):
        self.host = host
        self.outdated = False
        self.calls = []
        self.error = None

    def renew_socket(self):
        if self.error is not None:
            raise self.error
        self.calls.append("renew")

    def add_spelling(self, name):
        self.calls.append(f"spelled {name}")

    def restart(self, on_restarted):
        self.calls.append(on_restarted)


class FakeServedHosts(ServedHosts):
    """ServedHosts without sockets."""

    def bind(self, hosts, settings):
        for host in hosts:
            self.supervisors.setdefault(host.name, FakeSupervisor(host))


class Bench:
    def __init__(self, tmp_path, **settings):
        self.loop = StillLoop()
        settings = Settings(
            socket_directory=tmp_path, create_socket=tmp_path / "common_parent", **settings
        )
        hosts = [
            Host("l1", "d", "r", "a.example.org", None, 1, name="a.example.org", ids=("l1", "l9")),
            Host("l2", "d", "r", "b.example.org", None, 2, name="l2"),
        ]
        self.served: Any = FakeServedHosts(self.loop, settings, hosts)
        self.served.bind(hosts, settings)
        self.phase = PhaseNotifier()
        self.phase.enter(Phase.RUNNING)
        self.added = 0
        self.creation = SocketCreation(self.loop, self.served, self.phase, self.on_added)

    def on_added(self):
        self.added += 1

    def create(self, line):
        order = Order(line + b"\n")
        self.creation.carry_out(order)
        return order

    def calls(self, name="a.example.org"):
        return self.served.supervisors[name].calls


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


class TestHostsOfTheTable:
    @pytest.mark.parametrize("line", [b"a.example.org:l1", b"a.example.org:l1:more", b"other:l2", b"l2"])
    def test_a_socket_in_place_is_answered_with_done(self, bench, line):
        assert bench.create(line).reply == b"done"
        name = "l2" if b"l2" in line else "a.example.org"
        assert bench.calls(name) == ["renew"]

    def test_a_host_that_is_not_in_the_table(self, bench):
        assert bench.create(b"other:l3").reply == b"no_such_host"

    def test_a_child_at_a_missing_socket_is_replaced_first(self, bench):
        bench.served.supervisors["l2"].outdated = True
        orders = [bench.create(b"x:l2") for _ in range(2)]
        assert [each.replies for each in orders] == [[], []]
        _, first, _, second = bench.calls("l2")
        first(None)
        second("a reason")
        assert [each.reply for each in orders] == [b"done", b"error: a reason"]

    def test_a_socket_that_cannot_be_bound(self, bench, caplog):
        bench.served.supervisors["l2"].error = CannotStart("a directory is in the way")
        assert bench.create(b"x:l2").reply == b"error: a directory is in the way"
        assert caplog.messages == ["a directory is in the way"]

    def test_no_socket_is_bound_while_the_daemon_stops(self, bench):
        bench.phase.enter(Phase.STOPPING)
        assert bench.create(b"x:l2").reply == b"error: lonc is stopping"
        assert bench.calls("l2") == []


class TestNamesInAnotherCase:
    """With loncSocketName dns."""

    @pytest.fixture
    def bench(self, tmp_path):
        bench = Bench(tmp_path, socket_name="dns")
        twin = Host("l3", "d", "r", "A.example.org", None, 3, name="A.example.org")
        bench.served.hosts = [*bench.served.hosts, twin]
        bench.served.bind([twin], bench.served.settings)
        return bench

    def test_the_socket_gets_that_name_too(self, bench):
        assert bench.create(b"A.Example.ORG:l1:2.11.4").reply == b"done"
        assert bench.calls() == ["renew", "spelled A.Example.ORG"]

    def test_a_name_in_the_case_of_the_table_is_taken_as_it_is(self, bench):
        assert bench.create(b"A.example.org:l1").reply == b"done"
        assert bench.calls("A.example.org") == ["renew"]

    @pytest.mark.parametrize(
        ("line", "name"),
        [
            (b"a.EXAMPLE.org:l3", "A.example.org"),
            (b"a.EXAMPLE.org:l9", "a.example.org"),
            (b"a.EXAMPLE.org:x", "a.example.org"),
            (b"a.EXAMPLE.org", "a.example.org"),
        ],
    )
    def test_of_two_hosts_that_may_be_meant_it_is_the_one_of_the_id(self, bench, line, name):
        assert bench.create(line).reply == b"done"
        assert bench.calls(name) == ["renew", "spelled a.EXAMPLE.org"]

    def test_ids_are_names_with_their_case(self, tmp_path):
        bench = Bench(tmp_path)
        assert bench.create(b"L2").reply == b"no_such_host"
        assert bench.create(b"L2:l2").reply == b"done"
        assert bench.calls("l2") == ["renew"]

    def test_a_trusted_client_adds_no_second_host_by_it(self, trusting):
        trusting.create(b"new.example.org:n1")
        assert trusting.create(b"NEW.example.org:n2").reply == b"done"
        assert [host.name for host in trusting.served.requested.values()] == ["new.example.org"]
        assert trusting.calls("new.example.org")[-1] == "spelled NEW.example.org"


@pytest.fixture
def trusting(tmp_path):
    return Bench(tmp_path, trust_create=True, socket_name="dns")


class TestHostsThatOnlyAClientNames:
    """With loncTrustSockCreate 1."""

    def test_it_is_served_once_its_child_is_ready(self, trusting):
        order = trusting.create(b"new.example.org:n1:n2:2.12.0:3")
        assert order.replies == []
        renew, restarted = trusting.calls("new.example.org")
        restarted(None)
        assert (renew, order.reply) == ("renew", b"done")
        host = trusting.served.hosts[-1]
        assert (host.name, host.dnsname, host.ids) == (*["new.example.org"] * 2, ("n1", "n2"))
        assert trusting.served.names["n2"] == "new.example.org"
        assert (len(trusting.served.requested), trusting.added) == (1, 1)
        assert trusting.create(b"new.example.org:n1").reply == b"done"
        assert trusting.added == 1

    def test_ids_are_added_to_those_that_were_named_before(self, trusting):
        trusting.create(b"new.example.org:n1")
        trusting.create(b"new.example.org:n2")
        assert trusting.served.hosts[-1].ids == ("n1", "n2")
        assert trusting.served.supervisors["new.example.org"].host.ids == ("n1", "n2")
        assert [host.name for host in trusting.served.hosts].count("new.example.org") == 1

    def test_a_host_of_the_table_gets_no_other_ids(self, trusting):
        assert trusting.create(b"a.example.org:x1").reply == b"done"
        assert trusting.served.hosts[0].ids == ("l1", "l9")

    @pytest.mark.parametrize(
        ("line", "reply"),
        [
            (b"../x:n1", b"error: '../x' is not a DNS name"),
            (b"delayed:n1", b"error: a host cannot be named delayed"),
            (b"common_parent:n1", b"error: the socket of common_parent would be lonSockCreate"),
            (b"x" * 107 + b":n1", b"error: the socket path "),
            (b"new.example.org:-x:12", b"no_such_host"),
            (b"new.example.org", b"no_such_host"),
            (b"", b"no_such_host"),
        ],
    )
    def test_names_that_cannot_be(self, trusting, line, reply):
        assert trusting.create(line).reply.startswith(reply)
        assert trusting.served.requested == {}

    def test_an_id_belongs_to_one_name(self, trusting):
        trusting.create(b"new.example.org:l9:n1")
        assert trusting.served.hosts[-1].ids == ("n1",)
        assert trusting.served.names["l9"] == "a.example.org"
        assert trusting.create(b"other.example.org:n1").reply == b"error: n1 is an id of new.example.org"
        trusting.create(b"new.example.org:n2:l1")
        assert trusting.served.hosts[-1].ids == ("n1", "n2")

    def test_there_is_a_limit(self, trusting, restore_afterwards):
        restore_afterwards(socket_creation)
        socket_creation.MAX_REQUESTED = 1
        trusting.create(b"new.example.org:n1")
        reply = trusting.create(b"other.example.org:n2").reply
        assert reply == b"error: 1 hosts are served that are in no table"

    def test_it_stays_at_a_reload_until_a_table_has_it_or_clients_are_trusted_no_longer(self, trusting):
        trusting.create(b"new.example.org:n1")
        served = trusting.served
        table, new = served.hosts[:2], served.hosts[2]
        assert served.has_table_hosts
        assert served.with_requested(table, served.settings) == [*table, new]
        assert served.with_requested([replace(new, line=1)], served.settings) == [new]
        moved = Host("n1", "d", "r", "other.example.org", None, 3, name="other.example.org")
        assert served.with_requested([moved], served.settings) == [moved]
        assert served.with_requested(table, Settings()) == table

    def test_with_sockets_named_by_id_the_first_id_is_taken(self, tmp_path):
        bench = Bench(tmp_path, trust_create=True)
        bench.create(b"new.example.org:n1:n2")
        host = bench.served.hosts[-1]
        assert (host.name, host.dnsname, host.ids) == ("n1", "new.example.org", ("n1",))
