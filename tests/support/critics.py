"""Clients that send critical requests at a steady rate, with `lonnet.critical`; all are recorded."""

import threading
import time
from typing import NamedTuple

from lonc import lonnet

OK, DELAYED = b"ok", b"con_delayed"


class Critical(NamedTuple):
    request: bytes
    asked: float  # time.monotonic()
    ended: float
    answer: bytes


class Critics:
    """`threads` clients that together send `rate` requests a second, for `users` in turn.

    A client waits for its answer before its next request: late answers lower the rate. With as
    many threads as users, each user has a client of his own. Use as a context manager. `done` are the
    requests that have ended, in the order of their ends.
    """

    def __init__(self, settings, rate, users=1, threads=4, host="l1"):
        self.done = []
        self._settings = settings
        self._host = host
        self._users = users
        self._period = threads / rate
        self._serial = 0
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number, number * self._period / threads))
            for number in range(threads)
        ]

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

    def since(self, moment, answer=None):
        """The requests that ended after that moment, with that answer or any."""
        return [
            each for each in list(self.done) if each.ended > moment and answer in (None, each.answer)
        ]

    def lost_from(self, carried_out):
        """The requests that were answered with ok or con_delayed and are not in `carried_out`."""
        promised = {each.request for each in list(self.done) if each.answer in (OK, DELAYED)}
        return promised - set(carried_out)

    def out_of_order(self, carried_out):
        """How many requests were carried out, for the last time, after the same user's next request.

        Only requests that were sent after the answer to the one before are compared.
        """
        last = {request: number for number, request in enumerate(carried_out)}
        before, count = {}, 0
        for each in sorted(self.done, key=lambda critical: critical.asked):
            user = each.request.split(b":")[2]
            previous = before.get(user)
            if previous and previous.ended <= each.asked and each.request in last:
                count += last.get(previous.request, -1) > last[each.request]
            before[user] = each
        return count

    def _run(self, user, delay):
        due = time.monotonic() + delay
        with lonnet.Lonc(self._settings) as lonc:
            while not self._end.wait(max(0.0, due - time.monotonic())):
                due = max(due + self._period, time.monotonic())
                with self._lock:
                    self._serial += 1
                    serial = self._serial
                request = b"put:dom:user%d:file:%d" % (user % self._users, serial)
                user += len(self._threads)
                asked = time.monotonic()
                answer = lonc.critical(request, self._host)
                self.done.append(Critical(request, asked, time.monotonic(), answer))
