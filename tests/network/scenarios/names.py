"""Names that cannot be looked up, that have an address that is not reached, or that move."""

from network.emulator import REMOTE_ADDRESS6
from network.scenarios.measuring import connections, rounded, start, when
from support.machine import eventually


def first_nameserver_dead(machine, watch=60.0, **settings):
    """The first of two nameservers takes queries and never answers."""
    machine.by_name([machine.address(1)], silent_first=True)
    start(machine, **settings)
    first = when(lambda: machine.ask(b"echo") == b"echo", watch)
    given_up = machine.log().count("cannot resolve lond.example.org: no answer")
    return rounded({"served after, s": first, "lookups given up": given_up})


def ipv6_black_holed(machine, watch=60.0, **settings):
    """A name with an IPv6 and an IPv4 address, and IPv6 packets are dropped."""
    machine.by_name([REMOTE_ADDRESS6, machine.address(1)])
    machine.wan.change(drop_ipv6=True)
    start(machine, loncIdleTimeout=0.3, **settings)
    seconds = []
    for _ in range(3):
        seconds.append(when(lambda: machine.ask(b"echo") == b"echo", watch, every=0.001))
        eventually(lambda: connections(machine) == 0)
    return rounded(
        {"served after the start, s": seconds[0], "with a new connection, s": max(seconds[1:])}, 3
    )


def name_moves(machine, watch=20.0, **settings):
    """A name gets another address, while the old one goes on to answer; a client asks all the time."""
    nameserver = machine.by_name([machine.address(1)])
    start(machine, **settings)
    other = machine.lond(2)
    assert machine.ask(b"put:dom:user:file:1") == b"ok"
    nameserver.addresses = [machine.address(2)]

    def follows():
        machine.ask(b"put:dom:user:file:2")
        return other.carried_out()

    return rounded({"followed after, s": when(follows, watch, every=0.2)})
