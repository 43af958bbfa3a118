"""Whoever writes a table, or the server that it is fetched from, does not keep the parent busy."""

import time
from pathlib import Path

import pytest

from lonc.hosts import read_hosts

SHORT, LONG = 6_000, 60_000  # letters
REPEATS = 5


def fields(letters):
    """Lines with one long field each."""
    return {
        "address": f"l1:dom:library:l1.example:{'x' * letters}",
        "address that ends with a digit": f"l1:dom:library:l1.example:{'x' * letters}1",
        "address of digits": f"l1:dom:library:l1.example:{'1' * letters}",
        "address of dots": f"l1:dom:library:l1.example:{'1.' * (letters // 2)}",
        "address of digits and letters": f"l1:dom:library:l1.example:{'1x' * (letters // 2)}",
        "DNS name": f"l1:dom:library:{'x' * letters}",
        "DNS name with a space": f"l1:dom:library:{'x' * letters} ",
        "id": f"{'x' * letters}:dom:library:l1.example",
        "id with a space": f"{'x' * letters} :dom:library:l1.example",
        "blanks": " " * letters + "x",
        "colons": ":" * letters,
    }


def shortest_time(file, line, by_dns):
    """Seconds of the fastest of some reads."""
    file.write_text(line + "\n")
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        read_hosts([file], Path("/s"), by_dns)
        times.append(time.perf_counter() - begun)
    return min(times)


@pytest.mark.parametrize("by_dns", [False, True])
@pytest.mark.parametrize("field", fields(1))
def test_a_field_ten_times_as_long_takes_no_hundred_times_as_long(tmp_path, field, by_dns):
    file = tmp_path / "hosts.tab"
    short = shortest_time(file, fields(SHORT)[field], by_dns)
    long = shortest_time(file, fields(LONG)[field], by_dns)
    assert long < 40 * short, f"{short:.6f} s, {long:.6f} s"
