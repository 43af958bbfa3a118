"""The exporter's HTTP over real sockets; the test turns the loop."""

import contextlib
import gzip
import resource
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, make_wsgi_app
from support.clock import FakeClock

from lonc.monitoring import metrics_server
from lonc.monitoring.metrics_server import FINISH_WITHIN, MAX_CLIENTS, MAX_HEAD, MetricsServer
from lonc.runtime.event_loop import EventLoop
from lonc.runtime.socket_file import RETRY_ACCEPT

REGISTRY = CollectorRegistry()
Gauge("answer", "Help.", registry=REGISTRY).set(42)
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


class Bench:
    def __init__(self):
        self.clock = FakeClock()
        self.loop = EventLoop(self.clock)
        listening = socket.create_server(("127.0.0.1", 0))
        self.place = listening.getsockname()
        self.server = MetricsServer(self.loop, listening, make_wsgi_app(REGISTRY))
        self.clients = []

    def connect(self, data=b""):
        client = socket.create_connection(self.place, timeout=10)
        self.clients.append(client)
        client.sendall(data)
        self.turn()
        return client

    def turn(self, count=4):
        for _ in range(count):
            self.loop.turn(0.02)

    def ask(self, data):
        return self.read(self.connect(data))

    def read(self, client):
        """Everything up to the end; None if that does not come."""
        client.settimeout(0.02)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            for _ in range(1000):
                self.loop.turn(0)
                with contextlib.suppress(TimeoutError):
                    data = client.recv(1 << 16)
                    if not data:
                        return received
                    received += data
        return received

    def is_open(self, client):
        self.turn()
        client.setblocking(False)
        try:
            return client.recv(1) != b""
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False

    def end(self):
        self.server.close()
        assert self.server.clients == {}
        for client in self.clients:
            client.close()
        self.loop.close()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.end()


@pytest.mark.parametrize("path", [b"/metrics", b"/", b"/metrics?name[]=answer"])
def test_a_scrape(bench, path):
    reply = bench.ask(SCRAPE.replace(b"/metrics", path))
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head
    assert b"\nanswer 42.0\n" in body


def test_the_format_and_the_compression_are_negotiated(bench):
    reply = bench.ask(
        b"GET /metrics HTTP/1.1\naccept: application/openmetrics-text; version=1.0.0\n"
        b"Accept-Encoding: gzip\n\n"
    )
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"application/openmetrics-text" in head
    assert gzip.decompress(body).endswith(b"# EOF\n")


def test_another_method_and_nonsense_are_errors(bench):
    assert bench.ask(SCRAPE.replace(b"GET", b"PUT")).startswith(b"HTTP/1.1 405 ")
    for line in (b"nonsense", b"", b"GET /", b"GET / HTTP/2.0", b"GET /\xff HTTP/1.1", b"\0" * 100):
        assert bench.ask(line + b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_request_without_end_is_refused(bench):
    assert bench.ask(b"GET / HTTP/1.1\r\n" + b"x" * MAX_HEAD).startswith(b"HTTP/1.1 431 ")


def test_a_client_that_does_not_finish_its_request_is_disconnected(bench):
    client = bench.connect(b"GET /")
    bench.clock.advance(FINISH_WITHIN / 2)
    client.sendall(b"metrics")  # one byte now and then does not help
    assert bench.is_open(client)
    bench.clock.advance(FINISH_WITHIN / 2)
    assert not bench.is_open(client)


def test_a_client_that_does_not_read_its_reply_is_disconnected(bench, restore_afterwards):
    bench.server.application = lambda environ, start: (start("200 OK", []), [b"x" * 10**8])[1]
    bench.connect(SCRAPE)
    assert len(bench.server.clients) == 1
    bench.clock.advance(FINISH_WITHIN)
    bench.turn()
    assert len(bench.server.clients) == 0


def test_a_client_that_closes_is_forgotten(bench):
    bench.connect(b"GET /").close()
    bench.turn()
    assert len(bench.server.clients) == 0


def test_the_oldest_makes_room_and_the_newest_is_served(bench):
    clients = [bench.connect(b"GET /") for _ in range(MAX_CLIENTS)]
    assert b"answer 42.0" in bench.ask(SCRAPE)
    assert [bench.is_open(each) for each in clients] == [False] + [True] * (MAX_CLIENTS - 1)


def test_without_a_free_descriptor_the_oldest_makes_room_and_accepting_waits_a_moment(bench):
    first = bench.connect(b"GET /")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    second = socket.create_connection(bench.place, timeout=10)
    bench.clients.append(second)
    second.sendall(SCRAPE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        bench.turn()
        assert not bench.server._watch.events
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not bench.is_open(first)
    bench.clock.advance(RETRY_ACCEPT)
    assert b"answer 42.0" in bench.read(second)


@given(
    st.binary(max_size=200), st.sampled_from([b"", b"GET /", b"GET /?", b"GET / HTTP/1.1\r\nAccept: "])
)
def test_whatever_is_sent_there_is_a_reply(data, beginning):
    reply = metrics_server._response(make_wsgi_app(REGISTRY), beginning + data)
    assert reply.startswith(b"HTTP/1.1 ")
