"""lonc carries requests of local programs to the londs of a LON-CAPA network, and brings the replies.

A tour, in reading order:

- what is said on the wire: `lond_protocol`, with `line_buffer` and `cipher` under it, and
  `lond_connection`, which gives it a socket, and `resolver`, which finds where to connect; `keying` says
  how each connection is to come to its key, and `tls` is for those that are told one in it;
- who asks: `listener` and `client`; for whom that is, `addressee` knows;
- between them: `pool`, with `containers`, which passes each `transaction` to a connection; `stock`
  counts what is held for whom, `tally` what became of it, and a `chronicle` keeps what happened;
- what calls them all: `event_loop`;
- one host: `child` joins these parts, and passes its clients to the next child by `handover`; its parent
  sees it as a `child_process`, and has a `keeper` that always puts one in the last one's place
  (`socket_file`, `channel`, `backoff`, `process`);
- all hosts: `parent` has a `roster` of their keepers, brings up many children by a `rollout`, asks them
  all by a `survey`, stays within the `limits` of the machine, takes orders on the `control` socket, and
  is `answering` there itself;
- the daemon: `launch` becomes it, with the `privileges` that it is to have, `instance` makes it the only
  one and finds it, `shutdown` ends it, `systemd` is told;
- what waits on the disk for a host to come back: `delayed`, under a `seal` if there are keys, which its
  child carries out by a `replay`; the parent sees only the `post`; what is done by hand is `custody`;
  what they write is `durable`;
- what they read: `configuration`, of values that `readers` read, and `hosts`; what they tell: `log`,
  `status`;
- whether all is well: `health` judges a status report; `table`, `page`, `top` and `exporter` show one;
- the commands: `cli`, with `operation`, `monitoring`, `sending` and `safekeeping`, which read the files
  by `sources`;
- beside the daemon: `lonnet`, for programs that ask; `loopback`, a small lond to try it on, with
  `user_data`, and `demo`, which makes an `authority` for its certificates;
- what can go wrong: `errors`.
"""

__version__ = "0.1.0"
