"""The event loop, processes and files; knows nothing of lonc.

- `event_loop` waits for descriptors, signals and deadlines, and calls their callbacks;
- `slices` does long work between its turns;
- `line_buffer` makes lines of received bytes; `channel` passes lines and sockets to another process;
- `containers` has Queue and Stack; `backoff` has the delays between attempts;
- `process` forks, limits and ends processes; `socket_file` is a listening UNIX socket with a name;
- `directory` opens, writes, renames and removes files where others may write, without following links;
- `trust` knows which other users could change a file;
- `lock_file` is a lock whose holder the kernel names;
- `systemd` notifies the service manager.
"""
