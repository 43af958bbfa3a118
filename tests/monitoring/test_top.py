import io
import os
import re
import threading

import pytest
from rich.console import Console

from lonc.monitoring.status import HostStatus, Phase, Report
from lonc.monitoring.top import Keys, Top, sparkline


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


HOST = HostStatus(
    "a-host-with-a-long-name",
    "ready",
    clients=3,
    oldest_in_flight=21.0,
    saturated_last_minute=48.0,
    last_minute_wait={"p50": 0.1, "p90": 0.2, "p99": 0.3, "max": 0.3},
    last_minute_lond={"p50": 0.4, "p90": 0.5, "p99": 0.6, "max": 0.6},
)


def screen(width):
    top = Top(lambda: None, 1)
    report = Report(Phase.RUNNING, 41, "1.0", "2026-11-24T02:00:00+00:00", [HOST], {})
    shown = io.StringIO()
    Console(width=width, file=shown).print(top.render(report, 20, width))
    _, _, headings, line, *_ = shown.getvalue().splitlines()
    return headings, line


def test_waits_and_the_times_of_lond_are_shown_apart():
    headings, line = screen(200)
    assert re.search(
        r"wait p50 +wait p90 +wait p99 +lond p50 +lond p90 +lond p99 +busy +in flight", headings
    )
    assert re.search(r"100 ms +200 ms +300 ms +400 ms +500 ms +600 ms +48 s +21 s", line)
    assert "a-host-with-a-long-name" in line


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_on_a_narrow_terminal_columns_are_left_out_and_none_is_cut(width):
    headings, line = screen(width)
    for part in ("wait p99", "lond p99", "busy", "in flight", "waiting"):
        assert part in headings
    for part in ("a-host-with", "300 ms", "600 ms", "48 s", "21 s"):
        assert part in line
    assert "…" not in headings


def test_a_sparkline_shows_every_count_above_zero():
    assert sparkline([0, 1, 50, 100]) == " ▁▄█"
    assert sparkline([0, 0]) == "  "
    assert sparkline([]) == ""
