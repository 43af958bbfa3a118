"""Becoming, finding and ending the daemon.

- `start` becomes the daemon; `privileges` says as which user, and what that user lacks;
- `instance` holds the locks that make it the only one, and finds a running one by them;
- `stop` ends it.
"""
