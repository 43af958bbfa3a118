"""Critical requests while lond is away for a moment, and afterwards: they are sent directly again."""

import os
import time

import pytest
from support.critics import DELAYED, OK, Critics
from support.machine import eventually
from support.scripted_lond import ScriptedLond, remembering

from lonc.spool import spool


def critics_of(machine, users, period):
    """A client for each user that sends a critical request each `period` seconds."""
    return Critics(machine.settings(), rate=users / period, users=users, threads=users)


def sent_directly(requests):
    """How many of them lond has answered."""
    return sum(each.answer == OK for each in requests)


def in_order(seen):
    """Whether each user's requests were carried out in their order."""
    last = {}
    for request in seen:
        user, number = request.split(b":")[2], int(request.split(b":")[4])
        if number < last.get(user, 0):
            return False
        last[user] = number
    return True


@pytest.mark.parametrize(("users", "period"), [(1, 0.05), (4, 0.2), (1, 1.0)])
def test_after_a_second_without_lond_critical_requests_are_sent_directly_again(machine, users, period):
    """At the default settings."""
    seen = []
    with ScriptedLond(machine.address(1), machine.port, remembering(seen)):
        machine.start()
        with critics_of(machine, users, period) as critics:
            eventually(lambda: len(critics.done) >= 3)
    with critics_of(machine, users, period) as critics:
        away = time.monotonic()
        eventually(lambda: time.monotonic() > away + 1.0 and critics.since(away, DELAYED))
        with ScriptedLond(machine.address(1), machine.port, remembering(again := [])):
            back = time.monotonic()
            eventually(lambda: sent_directly(critics.since(back)[-5:]) == 5, 30)
            later = time.monotonic()
            eventually(lambda: len(critics.since(later)) >= 5, 30)
            critics.end()
            eventually(lambda: os.listdir(machine.sockets / "delayed") == [])
            machine.stop()
    saved = [each.ended for each in critics.since(0, DELAYED)]
    print(f"the last one was saved {max(saved) - back:.2f} s after lond was back")
    assert critics.since(later, DELAYED) == []
    assert critics.lost_from(again) == set()
    assert in_order(again)


def test_those_of_many_users_go_past_the_files_of_others(machine):
    """lond takes 0.1 s for each request, as over a long way."""
    seen = []

    def slow(peer):
        peer.greet()
        while (line := peer.hear()) is not None:
            time.sleep(0.1)
            seen.append(line)
            peer.say(line)

    machine.configure(loncDelayedInterval=1)
    with ScriptedLond(machine.address(1), machine.port, slow):
        machine.start()
        with critics_of(machine, 20, 1.0) as critics:
            eventually(lambda: len(critics.done) >= 20)
            settings = machine.settings()
            for number in range(5):
                spool.save(settings, b"put:dom:left%d:file:0" % number, "l1")
            eventually(lambda: sum(b":left" in line for line in list(seen)) == 5)
            gone = time.monotonic()
            eventually(lambda: len(critics.since(gone)) >= 60)
        assert critics.since(0, DELAYED) == []
        assert in_order(seen)
        machine.stop()
