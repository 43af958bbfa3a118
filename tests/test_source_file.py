import pytest
from support.machine import as_nobody

from lonc.errors import AtStart
from lonc.source_file import CARRIAGE_RETURN, UNFINISHED, FileState, has_changed, read_file


@pytest.fixture
def file(tmp_path):
    return tmp_path / "file"


def read(file, data):
    file.write_bytes(data)
    source = read_file(file, AtStart.SKIPS)
    return source.lines, [(fault.line, fault.text, fault.at_start) for fault in source.faults]


@pytest.mark.parametrize(
    ("data", "lines", "faults"),
    [
        (b"", [], []),
        (b"a\n\nb\n", [(1, b"a"), (2, b""), (3, b"b")], []),
        (b"a\r\nb\r\n", [(1, b"a"), (2, b"b")], []),
        (b"\xef\xbb\xbfa\n", [(1, b"a")], []),
        (b"a\n  ", [(1, b"a")], []),
        (b"a\nb", [(1, b"a"), (2, b"b")], [(2, UNFINISHED, AtStart.WARNS)]),
        (b"a\rb\nc\n", [(2, b"c")], [(1, CARRIAGE_RETURN, AtStart.SKIPS)]),
    ],
)
def test_lines_and_faults(file, data, lines, faults):
    assert read(file, data) == (lines, faults)


def test_a_change_is_noticed_and_its_digest_says_whether_the_content_is_another(file):
    file.write_text("a\n")
    state = read_file(file, AtStart.SKIPS).state
    assert not has_changed(state)
    beside = file.with_name("beside")
    beside.write_text("a\n")
    beside.rename(file)
    assert has_changed(state)
    assert read_file(file, AtStart.SKIPS).state.digest == state.digest
    file.write_text("b\n")
    again = read_file(file, AtStart.SKIPS).state
    assert again.digest != state.digest
    file.unlink()
    assert has_changed(again)


def test_a_file_that_was_missing(file):
    with pytest.raises(FileNotFoundError):
        read_file(file, AtStart.SKIPS)
    missing = FileState(file)
    assert not has_changed(missing)
    file.touch()
    assert has_changed(missing)


def test_a_file_that_may_not_be_read(file):
    file.write_text("a")
    file.chmod(0)

    def attempt():
        try:
            return str(read_file(file, AtStart.SKIPS))
        except OSError as error:
            return error.strerror

    assert as_nobody(attempt) == "Permission denied"
