import pytest
from hypothesis import given
from hypothesis import strategies as st

from lonc.runtime.line_buffer import LineBuffer, LineTooLong


@given(st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line)), st.data())
def test_lines_are_the_same_however_the_data_was_cut(lines, data):
    stream = b"".join(line + b"\n" for line in lines)
    buffer, out, position = LineBuffer(30), [], 0
    while position < len(stream):
        size = data.draw(st.integers(1, len(stream) - position))
        buffer.feed(stream[position : position + size])
        position += size
        for _ in range(data.draw(st.integers(0, 3))):
            if (line := buffer.next_line()) is not None:
                out.append(line)
        assert len(buffer) == position - sum(map(len, out))
    for _ in lines:
        if (line := buffer.next_line()) is not None:
            out.append(line)
    assert buffer.next_line() is None
    assert out == [line + b"\n" for line in lines]
    assert not buffer.rest
    assert all(isinstance(line, bytes | bytearray) for line in out)


def test_a_line_at_the_limit_passes_and_one_byte_more_does_not():
    buffer = LineBuffer(5)
    buffer.feed(b"12345\n123456\n")
    assert buffer.next_line() == b"12345\n"
    with pytest.raises(LineTooLong, match="more than 5 bytes"):
        buffer.next_line()


def test_a_line_without_end_passes_its_limit_before_its_newline_comes():
    buffer = LineBuffer(5)
    buffer.feed(b"12345")
    assert buffer.next_line() is None
    buffer.feed(b"6")
    with pytest.raises(LineTooLong):
        buffer.next_line()
    with pytest.raises(LineTooLong):
        buffer.next_line()


def test_taken_bytes_are_freed_if_every_piece_ends_one_line_and_begins_another():
    buffer = LineBuffer(1000)
    for _ in range(10_000):
        buffer.feed(b"x" * 90 + b"\n" + b"y" * 9)
        assert buffer.next_line() is not None
        assert buffer.next_line() is None
        assert len(buffer) == 9
        assert len(buffer.rest) < 1000


def test_each_byte_is_searched_once_however_long_the_line_is_and_however_it_was_cut():
    class Counting(bytearray):
        searched = 0

        def find(self, sub, start):
            Counting.searched += len(self) - start
            return super().find(sub, start)

    buffer = LineBuffer(1 << 20)
    buffer.feed(b"x")
    buffer.rest = Counting(buffer.rest)
    for _ in range(1000):
        buffer.feed(b"x" * 1000)
        assert buffer.next_line() is None
    buffer.feed(b"\n")
    assert len(buffer.next_line()) == 1_000_002
    assert Counting.searched == 1_000_002


def test_a_line_in_pieces_is_not_copied_when_it_is_whole():
    buffer = LineBuffer(100)
    for piece in (b"x", b"y", b"z\n"):
        assert buffer.next_line() is None
        buffer.feed(piece)
    gathered = buffer.rest
    assert buffer.next_line() is gathered
    buffer.feed(b"next\n")
    assert gathered == b"xyz\n"


def test_held_bytes_are_those_that_have_not_been_taken():
    buffer = LineBuffer(10)
    assert buffer.held() == b""
    buffer.feed(b"one\ntwo\nthr")
    buffer.next_line()
    assert buffer.held() == b"two\nthr"
    buffer.feed(b"ee")
    buffer.next_line()
    assert buffer.held() == b"three"


def test_exactly_one_line_is_returned_as_it_is_if_it_is_not_too_long():
    buffer = LineBuffer(5)
    line = b"12345\n"
    assert buffer.next_line(line) is line
    with pytest.raises(LineTooLong):
        buffer.next_line(b"123456\n")
