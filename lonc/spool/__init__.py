"""Delayed transactions on the disk: the requests that wait for their host to come back.

- `spool` is the directory, its files and the permanent log;
- `sealing` encrypts the requests in them, where there is a key file;
- `admin` does by hand what an operator asks for: list, requeue, reseal, drop.
"""
