"""The loop, processes and files: knows nothing of lonc."""
