"""The key of a connection, and lines that travel as `enc:LENGTH:HEX` (protocol of 2003).

IDEA, 128 bit, block by block (ECB), one key per lond connection. The cipher itself is OpenSSL's, by
way of `cryptography`.
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

# G-P and Q-Z stand for digits; what is no hex digit then counts as Perl's pack "H" counts it.
_LETTERS = str.maketrans("GHIJKLMNOPQRSTUVWXYZ", "01234567890123456789")
_BUILD_KEY = re.compile(rb"[0-9A-Fa-f]+\n")
_HEAD = re.compile(rb"enc:([0-9]{1,18}):")

PIECE = 65536  # bytes made hex at once: the digits of a long line are never there twice


def shared_key(server_id: str, client_id: str, build_key: bytes) -> bytes:
    """The 16 bytes that both sides derive from their host ids and the line with lond's build key.

    Raises ProtocolError if that line is no build key or too short for 16 bytes; the text of the error
    does not repeat it.
    """
    if not _BUILD_KEY.fullmatch(build_key):
        raise ProtocolError("what should be the build key has other than hex digits")
    ids = (server_id + client_id).upper().translate(_LETTERS)
    digits = ((ids + build_key[:-1].decode()) * 3)[:KEY_DIGITS]
    if len(digits) < KEY_DIGITS:
        raise ProtocolError(f"a build key of {len(build_key) - 1} digits is too short")
    return bytes.fromhex("".join(map(_hex_digit, digits)))


def _hex_digit(character: str) -> str:
    return character if character in string.hexdigits else f"{ord(character) & 0xF:x}"


class LineCipher:
    """Enciphers and deciphers whole lines with one key of 16 bytes, each by one call of the cipher.

    ECB carries nothing from block to block, so each direction keeps one context for all its lines; it
    is made for the first, since many a connection never has one.
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
        """`text`, without a newline, as an `enc:` line; at least one space of padding goes with it."""
        length = len(text)
        blocks = _in_one_call(self._encryptor, text.ljust(BLOCK * (length // BLOCK + 1)))
        if len(blocks) <= PIECE:
            return b"enc:%d:%b\n" % (length, binascii.hexlify(blocks))
        del text  # of a long one there is no need any more
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
        """The text, without a newline, of an `enc:` line. Raises ProtocolError if it is malformed."""
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
            raise ProtocolError("an enc: line with other than hex digits") from None
        del text[length:]
        return text


def _in_one_call(context: CipherContext, data: bytes | bytearray) -> bytearray:
    """What comes out for `data`, whole blocks. (`update` would copy it.)"""
    blocks = bytearray(len(data) + BLOCK - 1)
    del blocks[context.update_into(data, blocks) :]
    return blocks


def require_idea() -> None:
    """Try one vector; raise CannotStart where this build of cryptography lacks the cipher."""
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
