"""One host's process: the seed's ChildProcess."""
