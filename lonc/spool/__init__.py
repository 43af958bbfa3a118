"""Delayed transactions on the disk."""
