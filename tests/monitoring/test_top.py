import os
import threading

import pytest

from lonc.monitoring.top import Keys, sparkline


@pytest.fixture
def keys():
    """Keys of a pipe, and the end of the pipe that plays the keyboard."""
    read_end, write_end = os.pipe()
    yield Keys(read_end), write_end
    os.close(read_end)
    os.close(write_end)


def test_keys_that_arrive_together_are_returned_one_after_another(keys):
    reader, keyboard = keys
    os.write(keyboard, b"whq")
    assert [reader.next(0.0) for _ in range(4)] == ["w", "h", "q", None]


@pytest.mark.parametrize("sequence", ["\x1b[A", "\x1bOB", "\x1b[3~", "\x1b[1;5C"])
def test_the_sequence_of_a_special_key_is_one_key(keys, sequence):
    reader, keyboard = keys
    os.write(keyboard, f"w{sequence}q".encode())
    assert [reader.next(0.0) for _ in range(4)] == ["w", sequence, "q", None]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_sequence_that_arrives_in_pieces_is_one_key(keys, cut):
    reader, keyboard = keys
    sequence = b"\x1b[3~"
    os.write(keyboard, sequence[:cut])
    reader.sequence_within = 10.0  # seconds
    rest = threading.Timer(0.0, os.write, (keyboard, sequence[cut:]))
    rest.start()
    assert reader.next(0.0) == sequence.decode()
    rest.join()


def test_escape_alone_is_a_key(keys):
    reader, keyboard = keys
    os.write(keyboard, b"\x1b")
    assert [reader.next(0.0) for _ in range(2)] == ["\x1b", None]


def test_the_end_of_the_input_is_control_d():
    with open(os.devnull) as nothing:
        assert Keys(nothing.fileno()).next(1.0) == "\x04"


def test_bytes_that_are_no_text_are_unknown_keys(keys):
    reader, keyboard = keys
    os.write(keyboard, b"\xffq")
    assert [reader.next(0.0) for _ in range(2)] == ["\ufffd", "q"]


def test_a_sparkline_shows_every_count_above_zero():
    assert sparkline([0, 1, 50, 100]) == " ▁▄█"
    assert sparkline([0, 0]) == "  "
    assert sparkline([]) == ""
