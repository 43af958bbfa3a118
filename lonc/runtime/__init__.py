"""The event loop, processes and files: knows nothing of lonc.

- `event_loop` waits for descriptors, signals and deadlines, and calls their callbacks;
- `line_buffer` makes lines of bytes; `channel` carries lines, and sockets, between two processes;
- `containers` has Queue and Stack; `backoff` the delays between attempts;
- `process` forks; `socket_file` is a UNIX socket with a name; `atomic_file` a file that appears whole;
- `systemd` notifies the service manager.
"""
