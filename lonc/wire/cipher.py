"""The key of a connection, and lines sent as `enc:LENGTH:HEX` (protocol of 2003); knows no socket.

The cipher is IDEA in ECB mode with a key of 128 bits per lond connection, by OpenSSL through
`cryptography`.
"""

from __future__ import annotations

import binascii
import re
import string
from functools import cached_property

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.algorithms import IDEA
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, modes

from lonc.errors import CannotStart, ProtocolError

BLOCK = 8
KEY_BYTES = 16
KEY_DIGITS = 2 * KEY_BYTES

# As the Perl original: G-P and Q-Z become digits, and other characters count as in pack "H".
_LETTERS = str.maketrans("GHIJKLMNOPQRSTUVWXYZ", "01234567890123456789")
_BUILD_KEY = re.compile(rb"[0-9A-Fa-f]+\n")
_HEAD = re.compile(rb"enc:([0-9]{1,18}):")

PIECE = 65536  # bytes converted to hex at once: memory never holds the digits of a long line twice


def shared_key(server_id: str, client_id: str, build_key: bytes) -> bytes:
    """The key of 16 bytes that both sides derive from their host ids and the line with lond's build key.

    Raises ProtocolError if the line is not hex digits or too short. The text does not contain the line:
    it may be a secret.
    """
    if not _BUILD_KEY.fullmatch(build_key):
        raise ProtocolError("the build key has other characters than hex digits")
    ids = (server_id + client_id).upper().translate(_LETTERS)
    digits = ((ids + build_key[:-1].decode()) * 3)[:KEY_DIGITS]
    if len(digits) < KEY_DIGITS:
        raise ProtocolError(f"a build key of {len(build_key) - 1} digits is too short")
    return bytes.fromhex("".join(map(_hex_digit, digits)))


def _hex_digit(character: str) -> str:
    return character if character in string.hexdigits else f"{ord(character) & 0xF:x}"


class LineCipher:
    """Enciphers and deciphers whole lines with one key of 16 bytes.

    ECB has no state between blocks, so each direction uses one context for all lines. It is created for
    the first line: most connections never need it.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @cached_property
    def _encryptor(self) -> CipherContext:
        return Cipher(IDEA(self._key), modes.ECB()).encryptor()

    @cached_property
    def _decryptor(self) -> CipherContext:
        return Cipher(IDEA(self._key), modes.ECB()).decryptor()

    def encipher(self, text: bytes | bytearray) -> bytes | bytearray:
        """The `enc:` line for `text`, which has no newline. It is padded with one to eight spaces."""
        length = len(text)
        blocks = _in_one_call(self._encryptor, text.ljust(BLOCK * (length // BLOCK + 1)))
        if len(blocks) <= PIECE:
            return b"enc:%d:%b\n" % (length, binascii.hexlify(blocks))
        del text  # frees a long one before the digits are made
        head = b"enc:%d:" % length
        line = bytearray(len(head) + 2 * len(blocks) + 1)
        line[: len(head)] = head
        for start in range(0, len(blocks), PIECE):
            digits = binascii.hexlify(blocks[start : start + PIECE])
            place = len(head) + 2 * start
            line[place : place + len(digits)] = digits
        line[-1:] = b"\n"
        return line

    def decipher(self, line: bytes | bytearray) -> bytearray:
        """The text of an `enc:` line, without a newline. Raises ProtocolError if it is malformed."""
        head = _HEAD.match(line)
        if head is None:
            raise ProtocolError("a malformed enc: line")
        length, digits = int(head[1]), memoryview(line)[head.end() : -1]
        if len(digits) % (2 * BLOCK):
            raise ProtocolError(f"an enc: line of {len(digits)} hex digits, not whole blocks")
        if length > len(digits) // 2:
            raise ProtocolError(f"an enc: line with {len(digits) // 2} bytes of {length}")
        try:
            text = _in_one_call(self._decryptor, binascii.unhexlify(digits))
        except binascii.Error:
            raise ProtocolError("an enc: line with other characters than hex digits") from None
        del text[length:]
        return text


def _in_one_call(context: CipherContext, data: bytes | bytearray) -> bytearray:
    """Encipher or decipher `data`, whole blocks. `update` would copy the result once more."""
    blocks = bytearray(len(data) + BLOCK - 1)
    del blocks[context.update_into(data, blocks) :]
    return blocks


def require_idea() -> None:
    """Raises CannotStart if the installed `cryptography` has no IDEA; tries one test vector."""
    key = bytes.fromhex("62451624a354559a79edea097ad9adb0")
    try:
        works = LineCipher(key).encipher(b"seven77") == b"enc:7:553b6892d7e22986\n"
    except UnsupportedAlgorithm:
        works = False
    if not works:
        raise CannotStart(
            "the installed cryptography was built without IDEA (Debian's is):"
            " use the one from PyPI, pip install 'cryptography>=43'"
        )
