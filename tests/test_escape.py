import pytest
from hypothesis import given
from hypothesis import strategies as st

from lonc.escape import escaped, escaped_bytes


@pytest.mark.parametrize("text", ["", "a b", "München", "日本", "~ !", "\\x1b"])
def test_what_can_be_printed_stays_as_it_is(text):
    assert escaped(text) == text
    assert escaped(text.encode()) == text
    assert escaped_bytes(text.encode()) == text.encode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc\r\0", r"a\nb\tc\r\x00"),
        ("\x1b[2J\x7f", r"\x1b[2J\x7f"),
        ("ü\x85\x9b2Jü", r"ü\x85\x9b2Jü"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\u202eabc\u202c \u2066x\u2069 \u200e\u200f\u061c", None),  # bidirectional text
        ("a\u200bb\ufeff\u00ad", r"a\u200bb\ufeff\xad"),  # invisible
        ("a\u00a0b", r"a\xa0b"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_cannot_be_printed_is_escaped(text, shown):
    assert escaped(text) == (ascii(text)[1:-1] if shown is None else shown)


def test_bytes_that_are_not_utf_8_are_escaped_for_a_terminal_only():
    assert escaped(b"M\xfcnchen\x1b") == r"M\xfcnchen\x1b"
    assert escaped_bytes(b"M\xfcnchen\x1b") == b"M\xfcnchen\\x1b"


def test_in_a_file_the_bytes_of_a_character_are_escaped():
    assert escaped_bytes("\x85\u202e".encode()) == rb"\xc2\x85\xe2\x80\xae"


@given(st.one_of(st.text(), st.binary()))
def test_a_text_is_printable_then_and_stays_so(text):
    once = escaped(text)
    assert once.isprintable()
    assert escaped(once) == once


@given(st.binary())
def test_a_line_for_a_file_has_no_control_character_then(line):
    once = escaped_bytes(line)
    assert once.decode(errors="ignore").isprintable()
    assert escaped_bytes(once) == once
    assert b"\n" not in once
