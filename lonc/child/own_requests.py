"""For whom a request is: for lond, for lonc itself, or for nobody."""

from __future__ import annotations

import re

# How what is not for lond may begin.
MAYBE_OWN = (
    b"lonc:",
    b"reset_retries",
    b"close_connection_exit",
    b"init",
    b"ekey",
    b"exit",
    b"sethost:",
    b"encrypt:",
)

# They would change or end a connection that all clients share. (Later londs take what stands before a
# colon for the command.)
REFUSED = re.compile(rb"(?:encrypt:)?(?:init|sethost:|(?:ekey|exit)[:\n])")

# Not from everybody who may ask.
ORDERS = (b"reset_retries\n", b"close_connection_exit\n")

NOT_FOR_LOND = re.compile(b"|".join([REFUSED.pattern, b"lonc:", *ORDERS]))

FOR_WHOM = re.compile(rb"sethost:([^:\n]*):")  # of several ids, from later clients
SECRET = re.compile(rb"(?:%b)?encrypt:" % FOR_WHOM.pattern)  # travels enciphered, and is told to nobody
