"""lonc carries requests of local programs to the londs of a LON-CAPA network, and returns the replies.

The packages; each imports only packages that stand below it:

- `commands`: the command line
- `demo`: a tour, a small lond and a certificate authority, to try lonc
- `lifecycle`: starting, finding and stopping the daemon
- `parent`: the process that forks a child for each host and supervises it
- `child`: the process of one host, with its clients and its connections to lond
- `monitoring`: the status report, its judgement and its displays
- `lonnet`: the public library, for programs that send requests
- `spool`: delayed transactions on the disk
- `wire`: the protocol of lond
- `sources`: all files that configure lonc, as one value: `configuration`, `setting_types` and
  `configuration_file`, and `hosts`, which read files by `source_file`
- `replies`, `errors`, `escape`, `log`: used by all of them
- `runtime`: the event loop, processes and files; knows nothing of lonc

A request passes `child.listener`, `child.client`, `child.pool`, `child.lond_connection` and
`wire.lond_protocol`; its reply passes them in the other direction.

The public API is `lonc.lonnet.__all__`. All other modules and names are private: they may change in
any version.

Versions follow Semantic Versioning. A change that breaks one of the following needs a new major version:
the public API; the commands, their options and exit statuses; the fields of `lonc status --json`; the
names and labels of metrics; the settings; the names and contents of the files in `delayed/`. Texts for
people (log lines, help, the tables that commands print) may change in any version.
"""

__version__ = "0.1.0"
