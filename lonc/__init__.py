"""lonc carries requests of local programs to the londs of a LON-CAPA network, and returns the replies.

The packages, by who runs; each imports only packages that stand below it:

- `commands`: the command line;
- `demo`: a tour, a small lond and its certificates, to try lonc on;
- `lifecycle`: becoming the daemon, finding it, ending it;
- `parent`: the process that forks a child for each host, and answers for all of them;
- `child`: the process of one host, with its clients, its connections and its loop;
- `monitoring`: the status report, judged and shown;
- `lonnet`: the public library, for programs that send requests;
- `spool`: delayed transactions on the disk;
- `wire`: what is said to lond;
- `configuration`, `setting_types`, `hosts`, `errors`, `log`: what all of them read;
- `runtime`: the event loop, processes and files; knows nothing of lonc.

The way of a request: `child.listener`, `child.client`, `child.pool`, `child.lond_connection`,
`wire.lond_protocol`, and back.
"""

__version__ = "0.1.0"
