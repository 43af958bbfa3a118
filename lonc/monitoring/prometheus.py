"""The exporter of metrics for Prometheus; asks the daemon at each scrape."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from lonc.errors import LoncError, UsageError
from lonc.monitoring.metrics_server import BACKLOG, MetricsServer
from lonc.monitoring.statistics import REPORTED_BOUNDS
from lonc.monitoring.status import NOT_ANSWERING, HostStatus, Report
from lonc.runtime.event_loop import EventLoop

UP = {"ready", "resting", "connecting"}  # the states in which requests can succeed
HOST = ["host"]

# Name, help, and the value in a host's status.
_GAUGES = (
    ("lonc_clients", "Local programs that are connected.", lambda host: host.clients),
    ("lonc_queue_length", "Transactions that wait for a connection.", lambda host: host.waiting),
    (
        "lonc_queue_oldest_seconds",
        "How long the oldest transaction in the queue has waited for a connection.",
        lambda host: host.oldest_wait,
    ),
    (
        "lonc_in_flight_oldest_seconds",
        "How long the oldest request in flight has waited for its reply.",
        lambda host: host.oldest_in_flight,
    ),
    (
        "lonc_out_of_step",
        "Connections of the last hour whose replies came one request late.",
        lambda host: host.out_of_step,
    ),
    (
        "lonc_wrong_keys",
        "Connections of the last hour whose key did not fit.",
        lambda host: host.wrong_keys,
    ),
    (
        "lonc_connections_limit",
        "Most connections to the host's lond, loncMaxConnections.",
        lambda host: host.max_connections,
    ),
    ("lonc_delayed_files", "Delayed transactions in the spool.", lambda host: host.delayed),
    (
        "lonc_delayed_oldest_timestamp_seconds",
        "When the oldest delayed transaction in the spool was saved, UNIX time.",
        lambda host: host.oldest_delayed,
    ),
    ("lonc_child_memory_bytes", "Resident memory of the host's child.", lambda host: host.memory),
    (
        "lonc_child_start_timestamp_seconds",
        "When the host's child started, UNIX time; its counters start at 0.",
        lambda host: None if host.since is None else datetime.fromisoformat(host.since).timestamp(),
    ),
    (
        "lonc_host_up",
        "1 if requests to the host can succeed, else 0.",
        lambda host: int(host.state in UP),
    ),
    (
        "lonc_host_hung",
        "1 if the host's child does not answer, else 0.",
        lambda host: int(host.state == NOT_ANSWERING),
    ),
)
_COUNTERS = (
    (
        "lonc_insecure_fallbacks",
        "Connections whose key was exchanged in clear, because lond did not know the mode of"
        " loncKeyMode.",
        lambda host: host.fallbacks,
    ),
    ("lonc_sent_bytes", "Bytes of requests that got a reply.", lambda host: host.sent),
    ("lonc_received_bytes", "Bytes of replies from lond.", lambda host: host.received),
    (
        "lonc_pool_saturated_seconds",
        "Seconds in which all connections to the host's lond were busy, as many as loncMaxConnections.",
        lambda host: host.saturated_seconds,
    ),
)

Value = Callable[[HostStatus], "float | None"]

# Name, help, the counts up to each of REPORTED_BOUNDS, and the sum.
_HISTOGRAMS: tuple[tuple[str, str, Callable[[HostStatus], list[int] | None], Value], ...] = (
    (
        "lonc_request_duration_seconds",
        "Time from the arrival of a request to its reply.",
        lambda host: host.durations,
        lambda host: host.seconds,
    ),
    (
        "lonc_wait_seconds",
        "Time for which a request that got a reply had waited for a connection.",
        lambda host: host.wait_durations,
        lambda host: host.wait_seconds,
    ),
    (
        "lonc_lond_seconds",
        "Time from the start of a request on a connection to lond's reply.",
        lambda host: host.lond_durations,
        lambda host: host.lond_seconds,
    ),
)


class StatusCollector(Collector):
    """`current`: returns the daemon's report, or raises LoncError."""

    def __init__(self, current: Callable[[], Report]) -> None:
        self._current = current

    def describe(self) -> list[Metric]:
        """No metrics: registration must not ask the daemon."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            report = self._current()
        except (LoncError, OSError):
            report = None
        yield GaugeMetricFamily("lonc_up", "1 if the daemon answers, else 0.", value=float(bool(report)))
        if report is not None:
            yield InfoMetricFamily("lonc_build", "Version of the daemon.", {"version": report.version})
            yield from self._host_metrics(report)

    def _host_metrics(self, report: Report) -> Iterator[Metric]:
        for name, help_, value in _GAUGES:
            gauge = GaugeMetricFamily(name, help_, labels=HOST)
            _add(gauge, report, value)
            yield gauge
        for name, help_, value in _COUNTERS:
            counter = CounterMetricFamily(name, help_, labels=HOST)
            _add(counter, report, value)
            yield counter
        states = GaugeMetricFamily(
            "lonc_host_state", "1 for the current state of the host.", labels=["host", "state"]
        )
        connections = GaugeMetricFamily(
            "lonc_connections",
            "Connections to lond by state of the dialogue.",
            labels=["host", "state"],
        )
        transactions = CounterMetricFamily(
            "lonc_transactions",
            "Transactions that ended, by result: done, or the reason of the failure.",
            labels=["host", "result"],
        )
        histograms = {
            name: HistogramMetricFamily(name, help_, labels=HOST) for name, help_, *_ in _HISTOGRAMS
        }
        for host in report.hosts:
            states.add_metric([host.host, host.state], 1)
            for state, count in (host.connections or {}).items():
                connections.add_metric([host.host, state], count)
            if host.done is None:
                continue
            transactions.add_metric([host.host, "done"], host.done)
            for reason, count in (host.reasons or {}).items():
                transactions.add_metric([host.host, reason], count)
            for name, _, durations, seconds in _HISTOGRAMS:
                if (counts := durations(host)) is not None:
                    bounds = [*(f"{bound:g}" for bound in REPORTED_BOUNDS), "+Inf"]
                    buckets = zip(bounds, map(float, [*counts, host.done]), strict=True)
                    histograms[name].add_metric([host.host], list(buckets), seconds(host) or 0.0)
        yield from (states, connections, transactions, *histograms.values())


def _add(family: GaugeMetricFamily | CounterMetricFamily, report: Report, value: Value) -> None:
    for host in report.hosts:
        if (known := value(host)) is not None:
            family.add_metric([host.host], known)


def serve(current: Callable[[], Report], listen: str) -> None:
    """Answer scrapes at ADDRESS:PORT until TERM or INT. Raises UsageError, LoncError."""
    address, _, port = listen.rpartition(":")
    if not (address and port.isascii() and port.isdigit() and int(port) < 65536):
        raise UsageError(f"{listen!r} is not ADDRESS:PORT")
    loop = EventLoop()
    registry = CollectorRegistry()
    registry.register(StatusCollector(_once_a_turn(loop, current)))
    try:
        try:
            listening = _listen(address.strip("[]"), int(port))
        except OSError as error:
            raise LoncError(f"cannot listen at {listen}: {error.strerror}") from error
        server = MetricsServer(loop, listening, make_wsgi_app(registry))
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.on_signal(signum, loop.stop)
        print(f"metrics at http://{address}:{listening.getsockname()[1]}/metrics", flush=True)
        loop.run()
        server.close()
    finally:
        loop.close()


def _listen(address: str, port: int) -> socket.socket:
    """Raises OSError."""
    family, kind, protocol, _, place = socket.getaddrinfo(
        address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _once_a_turn(loop: EventLoop, current: Callable[[], Report]) -> Callable[[], Report]:
    """`current`, called once for all requests of a turn: many scrapes must not cost the daemon more."""
    last: tuple[float, Report | Exception] | None = None

    def call() -> Report:
        nonlocal last
        if last is None or last[0] != loop.now:
            try:
                last = loop.now, current()
            except (LoncError, OSError) as error:
                last = loop.now, error
        if isinstance(last[1], Exception):
            raise last[1]
        return last[1]

    return call
