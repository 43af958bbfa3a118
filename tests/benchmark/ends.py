"""Both ends of the subject in one loop: the clients that send requests, and the lond that replies."""

import select
import socket
import time

RECEIVE_SIZE = 65536
BACKLOG = 4096
BUILD_KEY = b"0123456789abcdef0123456789abcd"
ECHO = None  # the answer of a lond that echoes each request


class End:
    """A socket, the line expected from it, and the line to send in return (or ECHO)."""

    __slots__ = ("answer", "expected", "received", "sent_at", "socket", "unsent")

    def __init__(self, connection, expected, answer):
        connection.setblocking(False)
        self.socket = connection
        self.expected = expected
        self.answer = answer
        self.received = bytearray()
        self.unsent = b""
        self.sent_at = None  # time of a client's request; None for a lond


class Ends:
    """The clients of the subject and the londs behind it.

    Client `number` sends the line `request(number)` and must receive the line `reply(number)`. The londs
    accept at the sockets `listening` and reply with `answer`; with `dialogue`, which lonc needs, they
    first speak lond's part of it. `run` may be called repeatedly, with the same connections.
    """

    def __init__(self, listening, dialogue, request, reply, answer=ECHO):
        self.listening = {each.fileno(): each for each in listening}
        self.dialogue = dialogue
        self.request = request
        self.reply = reply
        self.answer = answer
        self.epoll = select.epoll()
        for number in self.listening:
            self.epoll.register(number, select.EPOLLIN)
        self.ends = {}
        self.programs = []
        self.done = 0
        self.seconds = 0.0
        self.waits = []  # seconds, of each transaction

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for end in self.ends.values():
            end.socket.close()
        self.epoll.close()

    def connect(self, paths, count):
        """Connect `count` clients, spread over the sockets."""
        for number in range(count):
            program = socket.socket(socket.AF_UNIX)
            program.connect(str(paths[number % len(paths)]))
            self.programs.append(self._add(program, self.reply(number), self.request(number)))

    def run(self, seconds, least=1):
        """Let all clients send requests for `seconds`, at least `least` in all; wait for all replies.

        Raises AssertionError for an unexpected reply or a closed connection.
        """
        self.done = 0
        self.waits = []
        began = time.perf_counter()
        self.programs_until = began + seconds
        self.least = least
        for program in self.programs:
            self._ask(program)
        self.asking = len(self.programs)
        while self.asking:
            assert self.turn(30), f"{self.asking} programs still wait"
        self.seconds = time.perf_counter() - began

    def turn(self, seconds):
        """Handle the events of up to `seconds`; return whether there were any."""
        ready = self.epoll.poll(seconds)
        for number, events in ready:
            if number in self.listening:
                self._accept(self.listening[number])
            elif events & select.EPOLLOUT:
                self._send(self.ends[number], self.ends[number].unsent)
            else:
                self._receive(self.ends[number])
        return bool(ready)

    def _receive(self, end):
        data = end.socket.recv(RECEIVE_SIZE)
        assert data, "a connection was closed"
        if end.received or data[-1] != 10:
            end.received += data
            if data[-1] != 10:
                return
            data, end.received = bytes(end.received), bytearray()
        if end.sent_at is None:
            assert data.endswith(b"\n")
            self._send(end, data if end.answer is ECHO else end.answer)
            return
        assert data == end.expected, f"{end.expected[:80]!r} was expected, {data[:80]!r} came"
        now = time.perf_counter()
        self.waits.append(now - end.sent_at)
        self.done += 1
        if now < self.programs_until or self.done < self.least:
            self._ask(end)
        else:
            self.asking -= 1

    def _ask(self, program):
        program.sent_at = time.perf_counter()
        self._send(program, program.answer)

    def _send(self, end, data):
        try:
            sent = end.socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            if not end.unsent:
                self.epoll.modify(end.socket, select.EPOLLOUT)
            end.unsent = memoryview(data)[sent:]
        elif end.unsent:
            end.unsent = b""
            self.epoll.modify(end.socket, select.EPOLLIN)

    def _accept(self, listening):
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.dialogue:
            for answer in (b"the challenge", b"ok", BUILD_KEY):
                connection.recv(RECEIVE_SIZE)
                connection.sendall(answer + b"\n")
        self._add(connection, None, self.answer)

    def _add(self, connection, expected, answer):
        end = End(connection, expected, answer)
        self.ends[connection.fileno()] = end
        self.epoll.register(connection, select.EPOLLIN)
        return end


def percentile(waits, share):
    return sorted(waits)[min(len(waits) - 1, int(share * len(waits)))]
