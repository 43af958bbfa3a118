"""Short storms: every reply is right, every request ends in time, nothing that was promised is lost."""

import pytest
from network.scenarios import storm


@pytest.mark.parametrize("name", ["5 % loss", "reordering", "flapping"])
def test_in_a_storm_every_reply_is_right_and_nothing_is_lost(machine, name):
    figures = storm(machine, name, scale=0.05)
    assert figures["requests"] > 0
    assert figures["critical"] > 0
    assert figures["wrong replies"] == 0
    assert figures["without an end in time"] == 0
    assert figures["of these lost"] == 0
    assert figures["out of a user's order"] == 0
