"""The parent process: forks one child per host and serves the control socket.

- `parent` starts and stops; `preflight` checks what the settings need of this machine;
- `client_limit` has the default of loncMaxClientsPerUser;
- `served_hosts` holds a `supervisor` for each host, which keeps one `child_process` running;
- `reload` rereads the files; `rolling_restart` restarts many children, a few at a time;
- `source_watch` compares the files on the disk with those in force;
- `control` is the control socket, `orders` what arrives there; `status_query` asks all children;
- `socket_creation` answers at the socket `lonSockCreate`;
- `socket_names` has the files beside a socket: its name in other case, and its lock;
- `spool_scan` finds hosts with delayed transactions.
"""
