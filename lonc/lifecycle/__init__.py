"""Starting, finding and stopping the daemon.

- `start` makes this process, or one behind it, the daemon; `stop` ends it from outside;
- `privileges` is the user that it becomes, and what that user has no permission for;
- `instance` holds the locks that make it the only one, and finds a running one by them;
- `control_client` sends orders to it.
"""
