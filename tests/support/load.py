"""Many clients at once on real sockets, in one process; each reply is compared with its request."""

import contextlib
import random
import selectors
import socket
import time


class Load:
    """`clients` clients that each send `requests` echo requests with texts of their own.

    - `paths`: the sockets, assigned to the clients in turn.
    - `longest`: bytes of the longest text.
    - `anew`: clients from that number on make a new connection for each request.
    - `until()`: all clients continue while it returns False.
    - `leaving`: the share of requests after which the client disconnects without waiting for the reply.
    - `tolerated(reply, text)`: whether a wrong reply counts as lost; any other one fails at once.

    Failed connects are listed in `refused`, missing replies in `lost`, by the name of the socket.
    """

    def __init__(
        self,
        paths,
        clients,
        requests,
        longest=2000,
        anew=None,
        seed=1,
        echo=b"echo:",
        until=lambda: True,
        leaving=0.0,
        tolerated=lambda reply, text: False,
    ):
        self.random = random.Random(seed)
        self.longest = longest
        self.anew = clients if anew is None else anew
        self.until = until
        self.echo = echo
        self.leaving = leaving
        self.tolerated = tolerated
        self.done = 0
        self.left_alone = 0
        self.longest_wait = 0.0  # seconds, with or without a reply
        self.refused = []
        self.lost = []
        self.selector = selectors.DefaultSelector()
        self.left = dict.fromkeys(range(clients), requests)
        self.paths = {number: paths[number % len(paths)] for number in range(clients)}
        self.expected = {}
        self.asked_at = {}
        self.received = {}
        self.serial = 0

    def run(self, meanwhile=lambda: None, seconds=60):
        deadline = time.monotonic() + seconds
        for number in self.left:
            self._connect(number)
        while self.selector.get_map():
            assert time.monotonic() < deadline, (
                f"{len(self.selector.get_map())} clients still wait for a reply"
            )
            for key, _ in self.selector.select(0.05):
                self._reply(key.fileobj, key.data)
            meanwhile()
        self.selector.close()
        return self

    def _connect(self, number):
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(self.paths[number]))
        except OSError as error:
            client.close()
            self.refused.append((self.paths[number].name, error.strerror))
            return
        self.selector.register(client, selectors.EVENT_READ, number)
        self._ask(client, number)

    def _ask(self, client, number):
        self.left[number] -= self.until()
        self.serial += 1
        text = b"%d:%d:" % (number, self.serial) + b"x" * self.random.randint(0, self.longest)
        self.expected[number] = text
        self.received[number] = bytearray()
        with contextlib.suppress(BrokenPipeError):  # then there is no reply either
            client.sendall(self.echo + text + b"\n")
        self.asked_at[number] = time.monotonic()
        if self.leaving and self.random.random() < self.leaving:
            self.left_alone += 1
            self._leave(client, number)

    def _reply(self, client, number):
        try:
            data = client.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        self.received[number] += data
        if data and not data.endswith(b"\n"):
            return
        self.longest_wait = max(self.longest_wait, time.monotonic() - self.asked_at[number])
        reply = bytes(self.received[number]).removesuffix(b"\n")
        if reply == self.expected[number] and data:
            self.done += 1
        elif self.tolerated(reply, self.expected[number]):
            self.lost.append(self.paths[number].name)
        else:
            assert reply in (b"", b"con_lost"), f"{self.expected[number]!r} was answered with {reply!r}"
            self.lost.append(self.paths[number].name)
        if self.left[number] and data and number < self.anew:
            self._ask(client, number)
        else:
            self._leave(client, number)

    def _leave(self, client, number):
        self.selector.unregister(client)
        client.close()
        if self.left[number]:
            self._connect(number)
