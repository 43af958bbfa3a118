"""Nameservers: one that answers with given addresses, and one that never answers."""

import contextlib
import os
import select
import socket
import struct
import threading

PORT = 53
_HEADER = 12
_A, _AAAA, _IN = 1, 28, 1
_RESPONSE = 0x8180  # without an error
_NAME_OF_THE_QUESTION = 0xC00C
_TTL = 0


def _response(query, addresses):
    """The response to a query: all addresses of the type asked for."""
    end = query.index(b"\0", _HEADER) + 5  # of the name; behind it type and class
    (kind,) = struct.unpack_from("!H", query, end - 4)
    family = {_A: socket.AF_INET, _AAAA: socket.AF_INET6}.get(kind)
    packed = []
    for each in addresses:
        if family == (socket.AF_INET6 if ":" in each else socket.AF_INET):
            packed.append(socket.inet_pton(family, each))
    header = query[:2] + struct.pack("!HHHHH", _RESPONSE, 1, len(packed), 0, 0)
    answers = [
        struct.pack("!HHHIH", _NAME_OF_THE_QUESTION, kind, _IN, _TTL, len(each)) + each
        for each in packed
    ]
    return header + query[_HEADER:end] + b"".join(answers)


class Nameserver:
    """Answers a query, for any name, with those of `addresses` that are of the type asked for.

    `addresses` may be changed at any time. Without addresses it receives queries and answers none.
    """

    def __init__(self, where, addresses=()):
        self.addresses = list(addresses)
        self.queries = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((where, PORT))
        self._end, self._ending = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        while self._end not in select.select([self._socket, self._end], [], [])[0]:
            query, client = self._socket.recvfrom(512)
            self.queries += 1
            if self.addresses:
                self._socket.sendto(_response(query, self.addresses), client)

    def close(self):
        os.close(self._ending)
        self._thread.join()
        os.close(self._end)
        self._socket.close()


@contextlib.contextmanager
def nameservers(namespace, servers):
    """Nameservers inside that namespace; `servers` has for each one's address what it answers with.

    Yields the Nameservers by their address.
    """
    made = {}
    try:
        with namespace.entered():
            for where, addresses in servers.items():
                made[where] = Nameserver(where, addresses)
        yield made
    finally:
        for each in made.values():
            each.close()
