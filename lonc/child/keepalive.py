"""Finds that the machine of a lond has vanished: options of TCP sockets, and what the kernel counts.

    a connection with                    user timeout     keepalive probes
    ----------------------------------------------------------------------------------------------
    a request                            loncPeerTimeout  after a quarter of loncPeerTimeout
    a request longer than LARGE_REQUEST  off              the same; `peer_is_silent` is asked
    nothing: it is idle                  off              after loncKeepalive, or none

Probes keep their connection: a machine that is up answers them, however slow its lond is.

- The user timeout (tcp(7), TCP_USER_TIMEOUT) also ends a connection whose peer acknowledges with a
  window of zero: a lond that has not read a long request yet. So a long request has none.
- With a user timeout one lost probe ends a connection that has been silent for that long, whatever
  TCP_KEEPCNT says (tcp_keepalive_timer in net/ipv4/tcp_timer.c). So an idle connection has none.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct

LARGE_REQUEST = 16384  # bytes; less than any receive window that Linux begins with

_RTO_MAX_MS = 44  # TCP_RTO_MAX_MS of linux/tcp.h, since Linux 6.15
_THIN_LINEAR_TIMEOUTS = 16  # TCP_THIN_LINEAR_TIMEOUTS

# struct tcp_info of linux/tcp.h: tcpi_probes, tcpi_unacked, tcpi_last_data_recv, tcpi_last_ack_recv
_INFO = struct.Struct("=3xB4x16xI24xII")


class Keepalive:
    """Watches the peer of one connection by the options of its socket `sock`; times are in seconds.

    `peer_timeout`: how long the peer may owe an acknowledgement. `idle`: until an idle connection is
    probed; 0 for never.

    The options change when the owner's alarm finds the connection idle, and not with each request: that
    would cost system calls. A socket that has ended may refuse them; the loop is about to report that.
    """

    __slots__ = ("_idle", "_peer_timeout", "_resting", "_socket", "_unanswered_since", "large")

    def __init__(self, sock: socket.socket, peer_timeout: float, idle: float) -> None:
        self._socket = sock
        self._peer_timeout = peer_timeout
        self._idle = idle
        self._resting = False  # whether the socket has the options of an idle connection
        self.large = False  # whether it has the options of one with a large request
        self._unanswered_since = math.inf  # since when `peer_is_silent` has found no acknowledgement
        with contextlib.suppress(OSError):
            # A lost packet is sent again often enough that loss alone does not reach the user timeout.
            self._set(_THIN_LINEAR_TIMEOUTS, 1)
            with contextlib.suppress(OSError):  # an older kernel
                self._set(_RTO_MAX_MS, min(120_000, max(1000, int(peer_timeout * 250))))
            self._watch_request()

    @property
    def check_interval(self) -> float:
        """Seconds between alarms that call `rest` or `peer_is_silent`."""
        return self._peer_timeout / 4

    def rest(self) -> None:
        """The connection is idle: a vanished peer is found within `idle` + `peer_timeout`."""
        self._resting = True
        self.large = False
        with contextlib.suppress(OSError):
            self._set(socket.TCP_USER_TIMEOUT, 0)
            if not self._idle:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
                return
            interval = max(1, int(self._peer_timeout / 10))
            self._set(socket.TCP_KEEPINTVL, interval)
            # A tenth less than promised: the kernel's long timers are late by up to an eighth.
            self._set(socket.TCP_KEEPCNT, min(127, max(1, int(self._peer_timeout * 0.9 / interval))))
            self._set(socket.TCP_KEEPIDLE, min(32767, max(1, int(self._idle * 0.9))))

    def end_rest(self) -> None:
        """A request has been sent. Call it after that: then a probe that is unanswered from before does
        not end the connection."""
        if self._resting:
            self._resting = False
            with contextlib.suppress(OSError):
                self._watch_request()
                if self.large:
                    self._set(socket.TCP_USER_TIMEOUT, 0)

    def watch_large_request(self) -> None:
        """A request is sent that may fill the peer's receive window."""
        self.large = True
        self._unanswered_since = math.inf
        with contextlib.suppress(OSError):
            self._set(socket.TCP_USER_TIMEOUT, 0)

    def peer_is_silent(self, now: float) -> bool:
        """Whether an acknowledgement has been due for `peer_timeout` and none has come; of a large
        request. `now` is the time by any one clock."""
        try:
            if not unanswered(self._socket):
                self._unanswered_since = math.inf
            else:
                last = now - since_acknowledgement(self._socket)
                since = now if self._unanswered_since == math.inf else self._unanswered_since
                self._unanswered_since = max(since, last)
        except OSError:
            return False
        return now - self._unanswered_since >= self._peer_timeout

    def _watch_request(self) -> None:
        interval = max(1, int(self._peer_timeout / 16))
        self._set(socket.TCP_KEEPINTVL, interval)
        self._set(socket.TCP_KEEPCNT, min(127, max(1, int(self._peer_timeout * 0.75 / interval))))
        self._set(socket.TCP_KEEPIDLE, max(1, int(self._peer_timeout / 4)))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._set(socket.TCP_USER_TIMEOUT, int(self._peer_timeout * 1000))

    def _set(self, option: int, value: int) -> None:
        self._socket.setsockopt(socket.IPPROTO_TCP, option, value)


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


def _info(sock: socket.socket) -> tuple[int, int, int, int]:
    found: tuple[int, int, int, int] = _INFO.unpack(
        sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    )
    return found
