"""Becoming, finding and ending the daemon."""
