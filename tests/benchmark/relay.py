"""The bare relay that lonc is compared with: a line in, a line out, over a few shared connections.

python relay.py CONNECTIONS PATH ADDRESS PORT [PATH ADDRESS PORT …]    a process for each PATH

It has no dialogue, timeouts, limits or statistics, and checks nothing.
"""

import os
import selectors
import signal
import socket
import sys
from collections import deque

RECEIVE_SIZE = 65536


class Relay:
    def __init__(self, connections, path, address, port):
        self.selector = selectors.DefaultSelector()
        self.idle = []
        self.waiting = deque()  # (client, its bytes)
        self.client_of = {}  # by connection
        self.connection_of = {}  # by client, until its whole line is sent
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(path)
        self.listening.listen(4096)
        self.selector.register(self.listening, selectors.EVENT_READ, self.accept)
        for _ in range(connections):
            connection = socket.create_connection((address, port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.idle.append(connection)
            self.selector.register(connection, selectors.EVENT_READ, self.from_lond)

    def run(self):
        while True:
            for key, _ in self.selector.select():
                key.data(key.fileobj)

    def accept(self, listening):
        client, _ = listening.accept()
        self.selector.register(client, selectors.EVENT_READ, self.from_client)

    def from_client(self, client):
        data = client.recv(RECEIVE_SIZE)
        if not data:
            self.selector.unregister(client)
            client.close()
        elif client in self.connection_of:
            self.pass_on(self.connection_of[client], client, data)
        elif self.idle:
            self.pass_on(self.idle.pop(), client, data)
        else:
            self.waiting.append((client, data))

    def pass_on(self, connection, client, data):
        self.client_of[connection] = client
        connection.sendall(data)
        if data.endswith(b"\n"):
            self.connection_of.pop(client, None)
        else:
            self.connection_of[client] = connection

    def from_lond(self, connection):
        data = connection.recv(RECEIVE_SIZE)
        if not data:
            sys.exit()
        self.client_of[connection].sendall(data)
        if data.endswith(b"\n"):
            if self.waiting:
                self.pass_on(connection, *self.waiting.popleft())
            else:
                self.idle.append(connection)


def main(connections, *places):
    for path, address, port in zip(*[iter(places)] * 3, strict=True):
        if os.fork() == 0:
            Relay(int(connections), path, address, int(port)).run()
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
