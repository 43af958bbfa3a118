"""Bytes from a lond during the key exchange in TLS: before, in place of, and after the key."""

import atexit
import tempfile
from functools import cache
from pathlib import Path

from lonc.configuration import Certificates
from lonc.demo.certificate_authority import Authority
from lonc.errors import ProtocolError
from lonc.wire.tls import MAX_RECORD, Tunnel, client_context, server_context

from .pieces import in_pieces

KEY = b"0123456789abcdef" * 2

WORDS = [
    b"\x14\x03\x03\0\x01\x01", b"\x15\x03\x03\0\x02\x01\0", b"\x15\x03\x03\0\x02\x02\x28",
    b"\x16\x03\x03", b"\x17\x03\x03", b"\x17\x03\x03\0\x10",
    b"\xff\xff", b"\x40\0", b"\0", b"2.11\n", b"ok\n", b"1",
]  # fmt: skip


@cache
def _contexts():
    place = tempfile.TemporaryDirectory()
    atexit.register(place.cleanup)
    files = Certificates(*(Path(place.name) / name for name in ("certificate", "key", "authority")))
    authority = Authority("ours")
    authority.write(files.authority)
    authority.issue("l1.example", files.certificate, files.private_key)
    lonc, lond = client_context(files), server_context(files)
    return lonc, lond


def _agree():
    """A tunnel that has received the key, and close_notify if lond has sent it."""
    lonc, lond = (
        Tunnel(context, name, key)
        for context, name, key in zip(_contexts(), ("l1.example", None), (None, KEY), strict=True)
    )
    lonc.begin()
    while to_lond := lonc.data_to_send():
        assert lond.receive(to_lond) == b""
        assert lonc.receive(lond.data_to_send()) == b""
    assert lonc.key == KEY
    return lonc


def tunnel(data):
    """The only exception is ProtocolError; there is no key without a handshake.

    At most one record is held. After the key, everything from the first byte that does not belong to a
    record is returned unchanged, however it is split; a record is never returned as clear text.
    """
    agreed = bool(data) and data[0] & 1 == 1
    if agreed:
        lonc = _agree()
    else:
        lonc = Tunnel(_contexts()[0], "l1.example")
        lonc.begin()
        lonc.data_to_send()
    clear = b""
    pieces = [piece for piece, *_ in in_pieces(data[1:])]
    try:
        for number, piece in enumerate(pieces):
            if clear := lonc.receive(piece):
                clear += b"".join(pieces[number + 1 :])
                break
            assert len(lonc) < MAX_RECORD
            assert agreed or lonc.key is None
    except ProtocolError:
        return
    stream = b"".join(pieces)
    assert agreed or not clear
    if agreed and stream[:1] not in (b"\x15", b"\x17"):
        assert clear == stream
    else:
        assert clear[:1] not in (b"\x15", b"\x17")
        assert stream.endswith(clear)
