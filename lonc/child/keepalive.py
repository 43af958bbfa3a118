"""Finds that the machine of a lond has vanished: options of TCP sockets, and what the kernel counts.

    a connection with                    user timeout     keepalive probes
    ----------------------------------------------------------------------------------------------
    a request                            loncPeerTimeout  after a quarter of loncPeerTimeout
    a request longer than LARGE_REQUEST  off              the same; `Keepalive.unanswered` is asked
    nothing: it is idle                  off              after loncKeepalive, or none

Probes keep their connection: a machine that is up answers them, however slow its lond is.

- The user timeout (tcp(7), TCP_USER_TIMEOUT) also ends a connection whose peer acknowledges with a
  window of zero: a lond that has not read a long request yet. So a long request has none.
- With a user timeout one lost probe ends a connection that has been silent for that long, whatever
  TCP_KEEPCNT says (tcp_keepalive_timer in net/ipv4/tcp_timer.c). So an idle connection has none.
"""

from __future__ import annotations

import contextlib
import socket
import struct

LARGE_REQUEST = 16384  # bytes; less than any receive window that Linux begins with

_RTO_MAX_MS = 44  # TCP_RTO_MAX_MS of linux/tcp.h, since Linux 6.15
_THIN_LINEAR_TIMEOUTS = 16  # TCP_THIN_LINEAR_TIMEOUTS

# struct tcp_info of linux/tcp.h: tcpi_probes, tcpi_unacked, tcpi_last_data_recv, tcpi_last_ack_recv
_INFO = struct.Struct("=3xB4x16xI24xII")


class Keepalive:
    """How long the peer of a connection may be silent; times are in seconds.

    `peer_timeout`: while it owes an acknowledgement. `idle`: until a connection that is idle is probed;
    0 for never. All methods may raise OSError.
    """

    def __init__(self, peer_timeout: float, idle: float) -> None:
        self.peer_timeout = peer_timeout
        self.check_interval = peer_timeout / 4  # of `unanswered`, and of looking for idle connections
        self._idle = idle

    def prepare(self, sock: socket.socket) -> None:
        """Set what holds for the whole life of a connection, and the state of one with a request."""
        # A lost packet is sent again often enough that loss alone does not reach the user timeout.
        _set(sock, _THIN_LINEAR_TIMEOUTS, 1)
        with contextlib.suppress(OSError):  # an older kernel
            _set(sock, _RTO_MAX_MS, min(120_000, max(1000, int(self.peer_timeout * 250))))
        self.watch_request(sock)

    def watch_request(self, sock: socket.socket) -> None:
        """A request is sent. Call it after that: then a probe that is unanswered from before does not
        end the connection."""
        interval = max(1, int(self.peer_timeout / 16))
        _set(sock, socket.TCP_KEEPINTVL, interval)
        _set(sock, socket.TCP_KEEPCNT, min(127, max(1, int(self.peer_timeout * 0.75 / interval))))
        _set(sock, socket.TCP_KEEPIDLE, max(1, int(self.peer_timeout / 4)))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        _set(sock, socket.TCP_USER_TIMEOUT, int(self.peer_timeout * 1000))

    def watch_large_request(self, sock: socket.socket) -> None:
        """A request is sent that may fill the peer's receive window."""
        _set(sock, socket.TCP_USER_TIMEOUT, 0)

    def watch_idle(self, sock: socket.socket) -> None:
        """The connection is idle: a vanished peer is found within `idle` + `peer_timeout`."""
        _set(sock, socket.TCP_USER_TIMEOUT, 0)
        if not self._idle:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
            return
        interval = max(1, int(self.peer_timeout / 10))
        _set(sock, socket.TCP_KEEPINTVL, interval)
        # A tenth less than promised: the kernel's long timers are late by up to an eighth.
        _set(sock, socket.TCP_KEEPCNT, min(127, max(1, int(self.peer_timeout * 0.9 / interval))))
        _set(sock, socket.TCP_KEEPIDLE, min(32767, max(1, int(self._idle * 0.9))))


def unanswered(sock: socket.socket) -> bool:
    """Whether the peer owes an acknowledgement: of data, or of several probes of its window."""
    probes, unacknowledged, _, _ = _info(sock)
    return unacknowledged > 0 or probes > 1


def since_acknowledgement(sock: socket.socket) -> float:
    """Seconds since the last acknowledgement of anything."""
    return _info(sock)[3] / 1000


def since_data(sock: socket.socket) -> float:
    """Seconds since the last data from the peer."""
    return _info(sock)[2] / 1000


def _set(sock: socket.socket, option: int, value: int) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _info(sock: socket.socket) -> tuple[int, int, int, int]:
    found: tuple[int, int, int, int] = _INFO.unpack(
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    )
    return found
