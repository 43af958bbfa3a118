"""What lonc costs, held against a bare relay and HAProxy; `python -m tests.benchmark`."""
