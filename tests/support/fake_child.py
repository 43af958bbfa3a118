"""A child with only a Listener and its clients, for tests of both; the test does the rest."""

import socket

from lonc.child.listener import Listener
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.socket_file import SocketFile

MAX_REQUEST = 1000


class FakeChild:
    """`waiting` are the transactions the test has still to complete; `events` are calls of callbacks."""

    own_prefixes = (b"lonc:",)

    def __init__(self, path):
        self.path = path
        self.loop = EventLoop()
        self.listening = SocketFile(path, 0o600).listening
        self.waiting = []
        self.dropped = []
        self.events = []
        self.reported_growth = 0
        self.at_once = None  # a reply that completes every transaction while it is being queued
        self.clients = []
        self.listener = self.make(max_clients=3)

    def make(self, max_clients, **limits):
        return Listener(
            self.loop,
            self.listening.dup(),  # the parent keeps one too
            self,
            max_clients=max_clients,
            max_request=MAX_REQUEST,
            on_full=self.events.append,
            on_drained=lambda: self.events.append("drained"),
            on_no_clients=lambda: None,
            **limits,
        )

    def answer(self, request, client):
        return b"own\n" if request == b"lonc:status\n" else None

    def queue_transaction(self, transaction):
        if self.at_once is not None:
            transaction.complete(self.at_once)
        else:
            self.waiting.append(transaction)

    def drop_transaction(self, transaction):
        self.dropped.append(transaction)

    def report_growth(self, count):
        self.reported_growth += count

    def connect(self):
        client = socket.socket(socket.AF_UNIX)
        self.clients.append(client)
        client.settimeout(10)
        client.connect(str(self.path))
        self.turn()
        return client

    def turn(self):
        """Turn the loop until all events are handled."""
        for _ in range(5):
            self.loop.turn(0)

    def end(self):
        for client in self.clients:
            client.close()
        self.turn()
        assert self.listener.clients == {}
        self.listener.drain()
        self.loop.close()
        self.listening.close()
