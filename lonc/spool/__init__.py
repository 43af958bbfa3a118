"""Delayed transactions on the disk: requests that wait until their host is reachable.

- `spool`: the directory `delayed/`, its files, and the permanent log
- `scan`: reads the directory step by step, however many files are in it
- `order`: which of them belong together, and must be carried out in their order
- `locks`: which process carries out a file, or changes it
- `sealing`: encrypts the requests in the files, if there is a key file
- `admin`: the operator's actions: list, show, requeue, reseal, drop
"""
