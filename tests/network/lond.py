"""A lond in a process of its own: it answers every request with itself, `ping` with its id.

python lond.py ADDRESS PORT [--record FILE] [--unasked SECONDS [--later SECONDS]]

Runs until TERM.

A client whose first line is not `init` is served without the dialogue. Requests that begin with `put:`
are written to FILE, one a line, before they are answered with `ok`.

With --unasked, every so many seconds a request is answered with an unsolicited line, and
--later seconds after that with its own reply: where the client has sent its next request meanwhile, that
is taken for the reply to it.

When it is killed, each connection ends with RST and no FIN: while the network is down, none of that
arrives, as if the machine had lost its power.
"""

import argparse
import selectors
import signal
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.scripted_lond import BUILD_KEY

ID = b"l1"
UNASKED = b"an unsolicited line"
DIALOGUE = [b"12345", b"ok", BUILD_KEY]


class Session:
    """One connection."""

    def __init__(self, lond, connection):
        self._lond = lond
        self.socket = connection
        self._received = b""
        self._said = 0  # lines of the dialogue
        self.to_send = b""

    def readable(self):
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lond.close(self)
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._line(line)

    def _line(self, line):
        if self._said == 0 and line != b"init":
            self._said = len(DIALOGUE)
        if self._said < len(DIALOGUE):
            self._said += 1
            self.say(DIALOGUE[self._said - 1])
            return
        answer = self._lond.answer(line)
        if self._lond.says_something_unasked():
            self.say(UNASKED)
            self._lond.reply_later(self, answer)
        else:
            self.say(answer)

    def say(self, line):
        self.to_send += line + b"\n"
        self.flush()

    def flush(self):
        try:
            self.to_send = self.to_send[self.socket.send(self.to_send) :]
        except BlockingIOError:
            pass
        except OSError:
            self._lond.close(self)
            return
        self._lond.watch(self)


class Lond:
    def __init__(self, address, port, unasked, later, record):
        self._selector = selectors.DefaultSelector()
        self._listening = socket.create_server((address, port), backlog=1000)
        self._listening.setblocking(False)
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._unasked = unasked
        self._next_unasked = time.monotonic() + (unasked or 0.0)
        self._record = record
        self._later = later
        self._replies = []  # (when, session, line) of those that come later

    def run(self):
        while True:
            timeout = self._replies[0][0] - time.monotonic() if self._replies else None
            for key, events in self._selector.select(None if timeout is None else max(0.0, timeout)):
                if key.fileobj is self._listening:
                    self._accept()
                    continue
                if events & selectors.EVENT_WRITE:
                    key.data.flush()
                if events & selectors.EVENT_READ:
                    key.data.readable()
            while self._replies and self._replies[0][0] <= time.monotonic():
                _, session, line = self._replies.pop(0)
                if session.socket.fileno() >= 0:
                    session.say(line)

    def _accept(self):
        connection, _ = self._listening.accept()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._selector.register(connection, selectors.EVENT_READ, Session(self, connection))

    def watch(self, session):
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if session.to_send else 0)
        if self._selector.get_key(session.socket).events != events:
            self._selector.modify(session.socket, events, session)

    def close(self, session):
        if session.socket.fileno() >= 0:
            self._selector.unregister(session.socket)
            session.socket.close()

    def answer(self, request):
        if request == b"ping":
            return ID
        if request.startswith(b"put:"):
            if self._record:
                with open(self._record, "ab") as record:
                    record.write(request + b"\n")
            return b"ok"
        return request

    def says_something_unasked(self):
        if not self._unasked or time.monotonic() < self._next_unasked:
            return False
        self._next_unasked = time.monotonic() + self._unasked
        return True

    def reply_later(self, session, line):
        self._replies.append((time.monotonic() + self._later, session, line))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--unasked", type=float)
    parser.add_argument("--later", type=float, default=0.005)
    parser.add_argument("--record")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    lond = Lond(options.address, options.port, options.unasked, options.later, options.record)
    print("listens", flush=True)
    lond.run()


if __name__ == "__main__":
    main()
