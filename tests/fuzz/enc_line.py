"""Enciphered lines."""

import re

from cryptography.hazmat.decrepit.ciphers.algorithms import IDEA
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from lonc.errors import ProtocolError
from lonc.wire.cipher import LineCipher

KEY = bytes.fromhex("62451624a354559a79edea097ad9adb0")

WORDS = [
    b"enc:", b"enc:0:", b"enc:1:", b"enc:8:", b"enc:999999999999999999:", b"enc:-1:", b":", b"0", b" ",
    b"2c38521fdc9c5b90", b"d748ad0476ddf4c5", b"FFDE679B633ECAB9", b"\0", b"\xff", b"g",
]  # fmt: skip


def enc_line(data):
    """A line is deciphered, or raises ProtocolError; the next line is deciphered as if alone.

    The text has the length that the line states, is what IDEA alone makes of the digits, and survives
    being enciphered and deciphered again.
    """
    cipher = LineCipher(KEY)
    for line in (data.replace(b"\n", b"") + b"\n", b"enc:" + data.replace(b"\n", b"") + b"\n"):
        try:
            text = cipher.decipher(line)
        except ProtocolError:
            continue
        assert re.fullmatch(b"enc:[0-9]+:([0-9A-Fa-f]{16})*\n", line)
        _, length, digits = line.split(b":")
        alone = Cipher(IDEA(KEY), modes.ECB()).decryptor()
        assert len(text) == int(length)
        assert text == alone.update(bytes.fromhex(digits.decode()))[: len(text)]
        assert cipher.decipher(cipher.encipher(text)) == text
    assert cipher.decipher(b"enc:7:553b6892d7e22986\n") == b"seven77"
