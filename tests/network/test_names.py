"""Names whose first nameserver is dead, and addresses that are not reached."""

from network.scenarios import first_nameserver_dead, ipv6_black_holed


def test_a_host_is_served_though_the_first_nameserver_is_dead(machine):
    figures = first_nameserver_dead(machine, watch=20.0)
    assert figures["served after, s"] is not None
    assert figures["lookups given up"] == 0
    assert "DEAD" not in machine.log()


def test_where_ipv6_packets_are_dropped_ipv4_is_used(machine):
    figures = ipv6_black_holed(machine, watch=20.0)
    assert figures["with a new connection, s"] < 2  # without the second attempt: 5 s
    assert "WARNING" not in machine.log()
