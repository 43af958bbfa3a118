"""One host's process: the original's ChildProcess.

- `child` builds the parts, joins their callbacks and runs the loop;
- `listener` accepts clients, `client` serves one, `own_requests` answers the requests for lonc itself;
- `transaction` is a request under way, `pool` puts it on a connection to lond; of its parts,
  `work_queue` holds what waits for one, `reachability` knows whether the host is DEAD and when to try
  again;
- `lond_connection` is one such connection, `connector` connects it, `resolver` finds lond's addresses;
- `replay` carries out delayed transactions;
- `handover` passes clients to the next child at a reload;
- `memory_limit` bounds the bytes held, `history` records changes and errors, `queue_timeouts` reports
  requests that no connection was free for, `report` writes the status report.

The callbacks bear the names of the original (loncnew): new_client, client_request, client_writable,
lond_readable, lond_writable, queue_transaction, start_request, complete_transaction, server_to_idle,
make_lond_connection, tick; so do Queue and Stack (in `lonc.runtime.containers`).
"""
