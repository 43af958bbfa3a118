"""Critical requests while lond is away for a moment, and afterwards: they are sent directly again."""

import os
import threading
import time

import pytest
from support.machine import eventually
from support.scripted_lond import ScriptedLond, remembering

from lonc import lonnet
from lonc.spool import spool


class Critics:
    """A thread for each user that sends a critical request each `period` seconds, numbered from 0."""

    def __init__(self, machine, users, period):
        self.answers = []  # time, request and answer
        self._settings = machine.settings()
        self._period = period
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(user,)) for user in range(users)]

    def __enter__(self):
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Send no more requests, and wait for the answers of those in flight."""
        self._end.set()
        for each in self._threads:
            each.join()

    def since(self, moment):
        return [answer for when, _, answer in list(self.answers) if when > moment]

    def promised(self):
        return {request for _, request, answer in self.answers if answer in (b"con_delayed", request)}

    def _run(self, user):
        with lonnet.Lonc(self._settings) as lonc:
            number = 0
            while not self._end.wait(self._period):
                request = b"put:dom:user%d:file:%d" % (user, number)
                answer = lonc.critical(request, "l1")
                self.answers.append((time.monotonic(), request, answer))
                number += 1


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
    """At the default settings, within three seconds."""
    seen = []
    with ScriptedLond(machine.address(1), machine.port, remembering(seen)):
        machine.start()
        with Critics(machine, users, period) as critics:
            eventually(lambda: len(critics.answers) >= 3)
    with Critics(machine, users, period) as critics:
        away = time.monotonic()
        eventually(lambda: time.monotonic() > away + 1.0 and b"con_delayed" in critics.since(away))
        with ScriptedLond(machine.address(1), machine.port, remembering(again := [])):
            back = time.monotonic()
            eventually(lambda: time.monotonic() > back + 3.0)
            later = time.monotonic()
            eventually(lambda: len(critics.since(later)) >= 5, 30)
            critics.end()
            eventually(lambda: os.listdir(machine.sockets / "delayed") == [])
            machine.stop()
    saved = [when for when, _, answer in critics.answers if answer == b"con_delayed"]
    print(f"the last one was saved {max(saved) - back:.2f} s after lond was back")
    assert b"con_delayed" not in critics.since(later)
    assert critics.promised() <= set(again)
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
        with Critics(machine, 20, 1.0) as critics:
            eventually(lambda: len(critics.answers) >= 20)
            settings = machine.settings()
            for number in range(5):
                spool.save(settings, b"put:dom:left%d:file:0" % number, "l1")
            eventually(lambda: sum(b":left" in line for line in list(seen)) == 5)
            gone = time.monotonic()
            eventually(lambda: len(critics.since(gone)) >= 60)
        assert b"con_delayed" not in critics.since(0)
        assert in_order(seen)
        machine.stop()
