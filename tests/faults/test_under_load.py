"""Updates, reloads and hostile clients while other clients are served."""

from faults import scenarios


def test_update(machine):
    print(scenarios.updates(machine, count=12))


def test_reload(machine):
    print(scenarios.hups(machine, count=8))


def test_very_many_delayed_transactions(machine):
    print(scenarios.files(machine, count=300))


def test_programs_that_send_without_end_and_without_a_newline(machine):
    print(scenarios.endless(machine, clients=100))
