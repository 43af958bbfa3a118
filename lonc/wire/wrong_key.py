"""Signs that lond has another key than lonc, in its reply to the first enciphered request.

Both derive the key from their host ids (`cipher.shared_key`). If lond takes one of them for another id,
it deciphers nonsense, and answers `unknown_cmd` in clear; or its reply is nonsense here.
"""

from __future__ import annotations

import codecs
import re

from lonc.configuration import CLASSIC

EXAMINED = 4096  # bytes of a reply: nonsense shows in the first of them
_NO_TEXT = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
UNKNOWN_COMMAND = b"unknown_cmd\n"


def sign_in_text(text: bytes | bytearray) -> str | None:
    """What shows that a deciphered reply is nonsense; None if it can be text."""
    head = bytes(text[:EXAMINED])
    try:
        codecs.utf_8_decode(head, "strict", False)  # the last character may be cut
    except UnicodeDecodeError:
        return "a reply is no text when it is deciphered"
    return "a reply is no text when it is deciphered" if _NO_TEXT.search(head) else None


def sign_in_clear(reply: bytes | bytearray) -> str | None:
    """What shows that lond could not read the request; None if nothing does."""
    if reply != UNKNOWN_COMMAND:
        return None
    return "lond answered an enciphered request with unknown_cmd (or does not know that command)"


def complaint(sign: str, mode: str) -> str:
    """A sentence with `sign` and what to do, for the mode of the key exchange."""
    todo = (
        "try loncKeyMode insecure"
        if mode == CLASSIC
        else "see whether lonHostID and hosts.tab are right"
    )
    return f"{sign}: the key does not fit: lond may know this host under another id; {todo}"
