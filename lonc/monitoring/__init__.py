"""One status report: collected, judged and shown."""
