"""Clients that send requests in a thread of their own; each request is recorded with its outcome."""

import selectors
import socket
import threading
import time
from typing import NamedTuple

from support.machine import eventually

RIGHT, WRONG, LOST = "right", "wrong", "con_lost"
PAUSE = 0.05  # seconds after con_lost


class Request(NamedTuple):
    client: int
    asked: float  # time.monotonic()
    ended: float
    outcome: str

    @property
    def seconds(self):
        return self.ended - self.asked


class Crowd:
    """`clients` connections to the UNIX socket `path`, each with one request in flight at a time.

    A request is an echo of at least `size` bytes that are unique, so that another request's reply is
    recognized. After a right reply a client pauses for `pause` seconds, otherwise for PAUSE.

    Use as a context manager. `requests` are those that have ended, in the order of their ends;
    `under_way` are the others: client -> time.monotonic() when it asked.
    """

    def __init__(self, path, clients, pause=0.0, size=40):
        self.requests = []
        self.under_way = {}
        self._path = path
        self._pause = pause
        self._size = size
        self._serial = 0
        self._sockets = {}
        self._expected = {}
        self._received = dict.fromkeys(range(clients), b"")
        self._to_ask = [(0.0, number) for number in range(clients)]  # when, which client
        self._selector = selectors.DefaultSelector()
        self._ends = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ends = True
        self._thread.join()
        for client in self._sockets.values():
            client.close()
        self._selector.close()

    def since(self, moment, outcome=None):
        """The requests that ended after that moment, with that outcome or any."""
        return [
            each
            for each in list(self.requests)
            if each.ended > moment and outcome in (None, each.outcome)
        ]

    def next_right(self, moment, seconds):
        """When the first right reply after that moment came; None if none did within so many seconds."""
        deadline = time.monotonic() + seconds
        while not (found := self.since(moment, RIGHT)) and time.monotonic() < deadline:
            time.sleep(0.005)
        return found[0].ended if found else None

    def count(self, outcome):
        return sum(each.outcome == outcome for each in list(self.requests))

    def is_served(self, each=2, seconds=60):
        """Wait until there are so many right replies for each client, on average."""
        eventually(lambda: self.count(RIGHT) >= each * len(self._received), seconds)

    def oldest(self):
        """Seconds since the oldest request in flight was sent; about 0 if there is none."""
        return time.monotonic() - min(self.under_way.copy().values(), default=time.monotonic())

    def longest(self, moment=0.0):
        """Seconds of the longest request that ended after that moment or is still in flight."""
        return max([self.oldest(), *(each.seconds for each in self.since(moment))])

    def _run(self):
        while not self._ends:
            now = time.monotonic()
            due = [number for when, number in self._to_ask if when <= now]
            self._to_ask = [each for each in self._to_ask if each[0] > now]
            for number in due:
                self._ask(number)
            for key, _ in self._selector.select(0.002 if self._to_ask else 0.02):
                self._reply(key.fileobj, key.data)

    def _ask(self, number):
        self._serial += 1
        text = b"echo:%d:%d:" % (number, self._serial)
        text += b"x" * (self._size - len(text))
        self._expected[number] = text
        self.under_way[number] = time.monotonic()
        try:
            if number not in self._sockets:
                self._connect(number)
            self._sockets[number].sendall(text + b"\n")
        except OSError:
            self._ended(number, LOST)

    def _connect(self, number):
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(self._path))
        except OSError:
            client.close()
            raise
        self._sockets[number] = client
        self._selector.register(client, selectors.EVENT_READ, number)

    def _reply(self, client, number):
        try:
            data = client.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            self._selector.unregister(client)
            self._sockets.pop(number).close()
            self._ended(number, LOST)
            return
        self._received[number] += data
        if data.endswith(b"\n"):
            reply = self._received[number][:-1]
            right = RIGHT if reply == self._expected[number] else WRONG
            self._ended(number, LOST if reply == b"con_lost" else right)

    def _ended(self, number, outcome):
        self._received[number] = b""
        now = time.monotonic()
        asked = self.under_way.pop(number)
        self.requests.append(Request(number, asked, now, outcome))
        self._to_ask.append((now + (self._pause if outcome == RIGHT else PAUSE), number))
