import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import datetime, timezone
from html.parser import HTMLParser

import pytest

from lonc.errors import LoncError
from lonc.monitoring.html import files, render, write
from lonc.monitoring.status import HostStatus, Phase, Report
from lonc.runtime.directory import Directory

SINCE = "2026-11-24T02:00:00+00:00"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=timezone.utc)
EVIL = '<script>alert("x")</script>&amp;\''


def report(*hosts):
    return Report(Phase.RUNNING, 41, "1.0", SINCE, hosts, {})


BUSY = HostStatus(
    "busy",
    "ready",
    state_since=SINCE,
    done_by_minute=[0] * 58 + [10, 20],
    failed_by_minute=[0] * 59 + [20],
    last_hour={"p50": 0.001, "p90": 0.1, "p99": 2.5, "max": 3.0},
    last_hour_wait={"p50": 0.0, "p90": 0.1, "p99": 1.25, "max": 3.0},
    saturated_last_minute=12.3,
    waiting=2,
    oldest_in_flight=21.0,
    delayed=3,
    changes=((SINCE, "connecting", None), (SINCE, "ready", "connected")),
)
DEAD = HostStatus(
    "gone", "DEAD", state_since=SINCE, last_error=(SINCE, EVIL), changes=((SINCE, "DEAD", EVIL),)
)


def written(made, place):
    with Directory(place) as directory:
        write(files(made), directory)


class Page(HTMLParser):
    """The elements of a page, and its texts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def test_the_content_of_the_page():
    page = Page(render(report(BUSY, DEAD), NOW))
    text = " ".join(page.texts)
    assert "WARNING" in text
    assert "2 of 2 hosts are degraded: busy has failed 40 % of its requests, gone has been DEAD" in text
    cells = [attributes for tag, attributes in page.elements if tag == "td"]
    assert [cell["class"] for cell in cells if cell["data-label"] == "state"] == ["state warning"] * 2
    columns = {cell["data-label"] for cell in cells}
    assert {"wait p99", "busy", "in flight"} <= columns
    assert {"1.2 s", "12 s", "21 s"} <= set(page.texts)
    (plot,) = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert plot["aria-label"] == "busy: 30 replies and 20 failures in the last hour"
    done, failed = (attributes["d"] for tag, attributes in page.elements if tag == "path")
    assert done == "M174 32.0v-8.0h2v8.0zM177 16.0v-16.0h2v16.0z"
    assert failed == "M177 32.0v-16.0h2v16.0z"


def test_text_from_a_host_is_escaped():
    page = Page(render(report(HostStatus(EVIL, EVIL, last_error=(EVIL, EVIL)), DEAD), NOW))
    assert not [tag for tag, _ in page.elements if tag == "script"]
    assert " ".join(page.texts).count(EVIL) >= 4


def test_the_page_loads_no_other_resource():
    text = render(report(BUSY), NOW)
    assert not re.search(r"https?:|src=|@import|url\(", text)


def test_a_partial_report_is_shown():
    half = replace(BUSY, failed_by_minute=None)
    assert "busy" in render(report(half), NOW)


def test_both_files_are_written_whole_and_readable(tmp_path):
    os.umask(os.umask(0o077))
    written(report(BUSY), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["index.html", "status.json"]
    assert (tmp_path / "index.html").stat().st_mode & 0o777 == 0o644
    assert json.loads((tmp_path / "status.json").read_text())["hosts"][0]["host"] == "busy"


def test_a_file_that_cannot_be_replaced_is_an_error(tmp_path):
    (tmp_path / "index.html").mkdir()
    with pytest.raises(LoncError, match=rf"cannot write {tmp_path}: Is a directory"):
        written(report(BUSY), tmp_path)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_the_page_without_an_error(tmp_path, width):
    written(report(BUSY, DEAD), tmp_path)
    picture = tmp_path / "page.png"
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--window-size={width},900", f"--user-data-dir={tmp_path}/profile",
    ]  # fmt: skip
    url = f"file://{tmp_path}/index.html"
    dumped = subprocess.run(
        [*command, "--dump-dom", url], capture_output=True, text=True, timeout=60, check=True
    )
    shown = Page(dumped.stdout)
    assert "gone" in shown.texts
    assert "DEAD" in shown.texts
    assert "CONSOLE" not in dumped.stderr
    subprocess.run(
        [*command, f"--screenshot={picture}", url], capture_output=True, timeout=60, check=True
    )
    assert picture.stat().st_size > 5000
