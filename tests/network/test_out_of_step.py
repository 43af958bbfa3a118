"""A lond that says a line unasked: how long clients are given the replies of others."""

from network.scenarios import unasked_lines


def test_replies_come_one_request_late_for_little_longer_than_the_interval(machine):
    figures = unasked_lines(machine, seconds=8, every=2.0, clients=30)
    assert figures["wrong replies"] > 0
    assert figures["longest run of wrong replies, s"] <= 1.1
