"""The command line.

- `cli` parses the arguments and calls one function of:
- `service` (start, stop, reload …), `status` (status, check-health, top …), `send` (send, ping) and
  `delayed`;
- `loading` reads configuration and table for all of them.
"""
