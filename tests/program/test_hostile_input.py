"""The invariants of tests/fuzz with a few hundred inputs per parser."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.subjects import SUBJECTS
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", SUBJECTS)
@given(data=st.data())
def test_it_holds_for_words_that_the_parser_knows_and_any_others(name, data):
    subject = SUBJECTS[name]
    words = st.lists(st.sampled_from(subject.words) | st.binary(max_size=8), max_size=40)
    subject.check(data.draw(st.binary(max_size=8)) + b"".join(data.draw(words)))


@pytest.mark.parametrize("name", SUBJECTS)
def test_it_holds_for_all_that_was_found_before(name):
    files = sorted(SUBJECTS[name].corpus.iterdir())
    assert 5 < len(files) <= 20
    for file in files:
        SUBJECTS[name].check(file.read_bytes())


def fuzz_briefly(directory, **environment):
    command = [sys.executable, "-m", "tests.fuzz", "enc_line", "--minutes", "0.02", "--keep", directory]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60
    )


class TestTheFuzzer:
    @pytest.fixture(autouse=True)
    def atheris(self):
        pytest.importorskip("atheris")

    def test_it_says_how_much_it_has_tried(self, tmp_path):
        done = fuzz_briefly(tmp_path)
        assert re.fullmatch(r"enc_line: [1-9]\d+ executions, coverage \d+, 0 findings\n", done.stdout)
        assert (done.returncode, done.stderr) == (0, "")

    def test_it_finds_what_breaks_an_invariant(self, tmp_path):
        (tmp_path / "sitecustomize.py").write_text("import binascii; binascii.unhexlify = bytes")
        done = fuzz_briefly(tmp_path, PYTHONPATH=str(tmp_path))
        assert re.match(r"enc_line: \d+ executions, coverage \S+, 1 findings\n", done.stdout)
        assert done.returncode == 1
        assert [path.name[:8] for path in tmp_path.glob("enc_line-*")] == ["enc_line"]
