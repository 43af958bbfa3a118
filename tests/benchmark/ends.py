"""Both far ends of what is measured, in one loop: the programs that ask, and the lond that answers."""

import select
import socket
import time

RECEIVE_SIZE = 65536
BACKLOG = 4096
BUILD_KEY = b"0123456789abcdef0123456789abcd"
ECHO = None  # the answer of a lond that gives back what it was sent


class End:
    """A socket, what should come from there, and what is said to that; ECHO for what came."""

    __slots__ = ("answer", "expected", "received", "said_at", "socket", "unsent")

    def __init__(self, connection, expected, answer):
        connection.setblocking(False)
        self.socket = connection
        self.expected = expected
        self.answer = answer
        self.received = bytearray()
        self.unsent = b""
        self.said_at = None  # when a program has asked; None for a lond


class Ends:
    """`request(number)` is what program `number` asks, `reply(number)` what it must get; both are lines.
    The londs at `listening` say `answer` to whatever they are asked, and their part of the `dialogue`
    before, if it is lonc who connects.

    `run` may be called again and again, with the same connections.
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
        self.waits = []  # of each transaction, in seconds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for end in self.ends.values():
            end.socket.close()
        self.epoll.close()

    def connect(self, paths, count):
        """So many programs, spread over the sockets."""
        for number in range(count):
            program = socket.socket(socket.AF_UNIX)
            program.connect(str(paths[number % len(paths)]))
            self.programs.append(self._add(program, self.reply(number), self.request(number)))

    def run(self, seconds, least=1):
        """Let all programs ask, for so long and at least so many times; then let the last ones be
        answered. Whatever is not as expected raises AssertionError."""
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
        """Whether anything has happened in that time."""
        ready = self.epoll.poll(seconds)
        for number, events in ready:
            if number in self.listening:
                self._accept(self.listening[number])
            elif events & select.EPOLLOUT:
                self._send(self.ends[number], self.ends[number].unsent)
            else:
                self._hear(self.ends[number])
        return bool(ready)

    def _hear(self, end):
        data = end.socket.recv(RECEIVE_SIZE)
        assert data, "a connection was closed"
        if end.received or data[-1] != 10:
            end.received += data
            if data[-1] != 10:
                return
            data, end.received = bytes(end.received), bytearray()
        if end.said_at is None:
            assert data.endswith(b"\n")
            self._send(end, data if end.answer is ECHO else end.answer)
            return
        assert data == end.expected, f"{end.expected[:80]!r} was expected, {data[:80]!r} came"
        now = time.perf_counter()
        self.waits.append(now - end.said_at)
        self.done += 1
        if now < self.programs_until or self.done < self.least:
            self._ask(end)
        else:
            self.asking -= 1

    def _ask(self, program):
        program.said_at = time.perf_counter()
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
