"""Which delayed transactions belong together: order is promised among the requests of one user.

The user is the second and third field of a request, `put:DOMAIN:USER:...`, behind `encrypt:` too. A
request of another form may belong to any user, so its order is kept against all others.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from lonc.runtime.directory import Directory
from lonc.spool.spool import Name, names_of

HEAD = 512  # bytes of a file in which its user is sought; fields of LON-CAPA are far shorter

# Reading a file takes some 20 microseconds. If more wait, no critical request goes past them.
MOST_READ = 500

# `lonc:` begins a sealed file. Each field must have its end: the beginning of a file may be all that has
# been written so far.
_USER = re.compile(rb"(?:encrypt:)?(?!encrypt:|sethost:|lonc:)\w+:([\w.-]+:[\w.@-]+)[:\n]", re.ASCII)


def user_of(content: bytes) -> bytes | None:
    """`DOMAIN:USER` of a request and its newline, or of the beginning of a request.

    None if it cannot be told; so it is for a sealed request.
    """
    match = _USER.match(content, 0, HEAD)
    return None if match is None else match[1]


def must_wait(directory: Path, request: bytes, host: str) -> bool:
    """Whether a file for `host` must be carried out before `request`, which has no newline.

    It must if it is of the same user, and if the user of one of the two cannot be told. Raises OSError.
    """
    names = names_of(directory, host)
    if not names:
        return False
    user = user_of(request if len(request) > HEAD else request + b"\n")
    if user is None or len(names) > MOST_READ:
        return True
    with Directory(directory) as opened:
        return any(_may_belong_to(user, opened, name) for name in names)


def _may_belong_to(user: bytes, directory: Directory, name: Name) -> bool:
    """False if the file is another user's, or is gone."""
    try:
        fd = directory.open(name.text)
    except FileNotFoundError:
        return False  # it has been carried out
    except OSError:
        return True
    try:
        found = user_of(os.pread(fd, HEAD, 0))
    except OSError:
        return True
    finally:
        os.close(fd)
    return found is None or found == user
