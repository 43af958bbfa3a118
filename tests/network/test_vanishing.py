"""Short scenarios of peers that vanish, and of some that only seem to."""

import pytest
from network.scenarios import (
    critical_after_a_crash,
    partition,
    peer_crashes,
    poor_path_idle,
    stopped_lond,
    vanish_idle,
    vanish_under_load,
)


def test_a_peer_that_vanishes_under_load_is_dead_soon_and_no_client_hangs(machine):
    figures = vanish_under_load(machine, clients=10, watch=30, loncPeerTimeout=2, loncConnectTimeout=1)
    assert figures["DEAD after, s"] is not None
    assert figures["hangs over"]
    assert figures["longest hang, s"] < 20  # 4 s, and the machine may be busy


def test_an_idle_peer_that_vanishes_is_noticed_without_a_request(machine):
    figures = vanish_idle(machine, watch=30, loncPeerTimeout=1, loncKeepalive=1, loncConnectTimeout=1)
    assert figures["noticed after, s"] is not None
    assert figures["DEAD after, s"] is not None


def test_loss_closes_no_idle_connection(machine):
    figures = poor_path_idle(
        machine, seconds=6, conditions={"delay_ms": 50, "loss": 0.15}, loncPeerTimeout=8, loncKeepalive=1
    )
    assert figures["closed"] == 0


def test_a_lond_that_is_stopped_for_longer_than_the_peer_timeout_may_still_reply(machine):
    figures = stopped_lond(machine, after=5, clients=10, loncPeerTimeout=3, loncHandshakeTimeout=1)
    assert figures["DEAD after, s"] is not None
    assert figures["and what"] == "con_lost"
    assert figures["answered then, of what was in flight"] == 5


@pytest.mark.parametrize(
    ("scenario", "figure", "most"),
    [(peer_crashes, "con_lost", 1), (critical_after_a_crash, "con_delayed", 0)],
)
def test_after_a_crash_one_request_is_lost_and_critical_does_not_save(machine, scenario, figure, most):
    assert scenario(machine, idle=0.2)[figure] <= most


def test_after_a_partition_clients_are_served_soon_though_delays_have_grown(machine):
    figures = partition(
        machine, seconds=4, watch=25, loncPeerTimeout=1, loncConnectTimeout=0.5, loncRetryDelay=50
    )
    assert figures["first reply after, s"] < 20  # 6 s; by the delay it would be 40
    assert figures["wrong replies"] == 0
