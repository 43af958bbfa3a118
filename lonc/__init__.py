"""lonc carries requests of local programs to the londs of a LON-CAPA network, and brings the replies.

A tour, in reading order:

- what is said on the wire: `lond_protocol`, with `line_buffer` and `cipher` under it, and
  `lond_connection`, which gives it a socket;
- who asks: `client`;
- between them: `pool`, with `containers`, which passes each `transaction` to a connection;
- what calls them all: `event_loop`;
- processes: `child` joins these parts for one host, `parent` forks a child per host and replaces the
  dead (`channel`, `backoff`, `process`), `instance` sees to it that there is one parent;
- what they read: `configuration`, `hosts`; what they tell: `log`, `status`;
- beside the daemon: `lonnet`, for programs that ask; `loopback`, a small lond to try it on; `cli` and
  `demo`;
- what can go wrong: `errors`.
"""

__version__ = "0.1.0"
