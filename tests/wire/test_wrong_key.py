import os

import pytest

from lonc.wire.cipher import LineCipher, shared_key
from lonc.wire.wrong_key import EXAMINED, complaint, sign_in_clear, sign_in_text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"ok",
        b"a=%26&b=:x\tand a tab",
        "Jürgen".encode(),
        b"x" * (EXAMINED - 1) + "ü".encode(),  # what is examined ends inside that character
        b"x" * EXAMINED + b"\0",
    ],
)
def test_what_can_be_text(text):
    assert sign_in_text(text) is None
    assert sign_in_text(bytearray(text)) is None


@pytest.mark.parametrize(
    "text", [b"\0", b"ok\x1b[2J", b"\x7f", b"two\nlines", b"\r", b"\xff", b"J\xfcrgen"]
)
def test_what_cannot(text):
    assert sign_in_text(text) == "a reply is no text when it is deciphered"


def test_a_reply_deciphered_with_another_key_is_no_text():
    build_key = b"54559A79EDEA097AD9ADB087C71818\n"
    theirs, ours = (LineCipher(shared_key("l1", id_, build_key)) for id_ in ("a2", "a1"))
    texts = [b"user%d=name&mail=x" % number for number in range(200)]
    assert all(sign_in_text(ours.decipher(theirs.encipher(text))) for text in texts)
    assert not any(sign_in_text(theirs.decipher(theirs.encipher(text))) for text in texts)


def test_in_clear_it_is_the_word_for_an_unknown_command_only():
    assert sign_in_clear(b"unknown_cmd\n") is not None
    assert sign_in_clear(bytearray(b"unknown_cmd\n")) is not None
    for reply in (b"ok\n", b"refused\n", b"unknown_cmd:x\n", b"\n", os.urandom(20) + b"\n"):
        assert sign_in_clear(reply) is None


def test_the_sentence_says_what_to_do():
    advice = "the key does not fit: lond may know this host under another id; "
    assert complaint("x", "classic") == f"x: {advice}try loncKeyMode insecure"
    for mode in ("insecure", "ssl", "local"):
        assert complaint("x", mode) == f"x: {advice}see whether lonHostID and hosts.tab are right"
