"""What a wide network does to lonc: each function is a scenario and returns its figures.

A scenario takes a WideMachine and starts what it needs on it. `delay_ms` is that of one direction: a
round trip takes twice as long. `settings` are lonc's; those that this lonc does not have are left out
(see WideMachine), so that any version can be measured. `watch` limits the seconds of waiting; a figure
is None if its event did not happen in that time. Nothing about lonc is asserted here.
"""

from network.scenarios.delayed import (
    backlog_under_critical,
    critical_at_a_distance,
    delayed_with_busy_pool,
    lond_away_for_a_moment,
)
from network.scenarios.measuring import longest_run
from network.scenarios.names import first_nameserver_dead, ipv6_black_holed, name_moves
from network.scenarios.storms import STORMS, poor_path, poor_path_idle, storm
from network.scenarios.traffic import capacity, mtu_black_hole, throughput, unasked_lines
from network.scenarios.vanishing import (
    critical_after_a_crash,
    firewall_forgets,
    haproxy_partition,
    partition,
    peer_crashes,
    stopped_lond,
    vanish_idle,
    vanish_under_load,
)

__all__ = [
    "STORMS",
    "backlog_under_critical",
    "capacity",
    "critical_after_a_crash",
    "critical_at_a_distance",
    "delayed_with_busy_pool",
    "firewall_forgets",
    "first_nameserver_dead",
    "haproxy_partition",
    "ipv6_black_holed",
    "lond_away_for_a_moment",
    "longest_run",
    "mtu_black_hole",
    "name_moves",
    "partition",
    "peer_crashes",
    "poor_path",
    "poor_path_idle",
    "stopped_lond",
    "storm",
    "throughput",
    "unasked_lines",
    "vanish_idle",
    "vanish_under_load",
]
