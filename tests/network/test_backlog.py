"""A backlog of delayed files while critical requests of the same users go on."""

from network.scenarios import backlog_under_critical


def test_a_backlog_ends_while_critical_requests_of_its_users_come(machine):
    figures = backlog_under_critical(machine, files=35, watch=40, quiet=2)
    assert figures["files that wait at the end"] == 0
    assert figures["lost"] == 0
    assert figures["out of a user's order"] == 0
