"""The cost of lonc, compared with a bare relay and with HAProxy; `python -m tests.benchmark`."""
