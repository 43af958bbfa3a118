"""One host's process: the original's ChildProcess.

- `child` builds the parts, joins their callbacks and runs the loop;
- `listener` accepts clients; `client` reads requests and writes replies; `own_requests` tells requests
  for lonc itself from those for lond;
- `transaction` is a request under way; `pool` puts it on a connection;
- `lond_connection` is one connection to lond; `resolver` finds the address;
- `replay` carries out delayed transactions; `handover` passes clients to the next child;
- `memory_limit` bounds what is held; `history` records what happened to the host.
"""
