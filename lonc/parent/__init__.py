"""All hosts: the process that forks a child for each, and answers for all of them.

- `parent` starts, reloads and stops; `preflight` checks what this machine allows;
- `served_hosts` holds a `supervisor` for each host, which keeps one `child_process` running;
- `rolling_restart` replaces many children, a few at a time; `status_query` asks all children;
- `answering_socket` and `control` take orders; `spool_scan` finds hosts with delayed transactions.
"""
