import os
import re
import subprocess

from support import log_programs
from support.machine import python_calling

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (\w+) (\d+) (\w+): (.*)")


def say(program, *arguments):
    """Lines on standard error of that function of log_programs, as (level, pid, host, sentence)."""
    command = python_calling(program, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return [LINE.fullmatch(line).groups() for line in done.stderr.split("\n")[:-1]]


def sentences(program, *arguments):
    return [line[3] for line in say(program, *arguments)]


def test_an_event_is_one_line_with_its_time_level_process_and_host():
    ((level, pid, host, sentence),) = say(log_programs.opened, "info", "%s was lost", "it")
    assert (level, host, sentence) == ("WARNING", "parent", "it was lost")
    assert int(pid) != os.getpid()


def test_a_child_logs_the_name_of_its_host():
    lines = say(log_programs.as_a_child)
    assert lines[0][1] == lines[0][3]
    assert lines[0][2] == "msul1"


def test_repeats_of_a_message_are_counted_and_logged_as_one_line_a_minute():
    assert sentences(log_programs.repeats) == [
        "l1: it is lost",
        "59 s",
        "l1: it is lost (2 more in 60 s)",
        "l1: it is lost (1 more in 60 s)",
        "l1: it is lost",
    ]


def test_a_message_logged_in_other_words_counts_as_logged():
    assert sentences(log_programs.logged_in_other_words) == ["l1: it is lost (1 more in 60 s)"]


def test_a_hundred_different_messages_a_minute_are_logged_and_all_others_are_one_line():
    lines = sentences(log_programs.a_thousand_thrice)
    assert lines[:100] == [f"l1: message {number}" for number in range(100)]
    assert sorted(lines[100:201]) == sorted(
        [f"l1: message {number} (2 more in 60 s)" for number in range(100)]
        + ["l1: 2700 more messages, 900 of them different, not logged in 60 s"]
    )
    assert lines[201:] == ["next minute"]  # the hundred repeated ones still hold their places


def test_the_others_are_reported_each_minute_and_not_when_there_are_none():
    lines = sentences(log_programs.a_few_too_many_each_minute)
    assert [line for line in lines if "message" in line] == [
        "l1: 1 more message, 1 of them different, not logged in 60 s",
        "l1: 2 more messages, 2 of them different, not logged in 60 s",
    ]
    assert lines[-1] == "l1: new"
    assert len(lines) == 100 + 1 + 100 + 1 + 1


def test_the_memory_for_different_messages_is_bounded():
    lines = sentences(log_programs.twenty_thousand)
    assert lines[100:] == [
        "l1: 19900 more messages, at least 1000 of them different, not logged in 60 s",
        "1000 0",
    ]


def test_a_percent_sign_in_a_message_is_no_format():
    assert sentences(log_programs.with_a_percent_sign) == [
        "l1: 100 %s",
        "l1: 100 %s (1 more in 60 s)",
    ]


def test_control_characters_from_clients_and_londs_are_escaped():
    (line,) = say(log_programs.opened, "info", "a\nb\r\x1b[2Jc\x85d\u2028e\udcffü")
    assert line[3] == r"a\nb\r\x1b[2Jc\x85d\u2028e\udcffü"


def test_the_level_is_the_setting():
    assert sentences(log_programs.at_each_level, "warning") == ["warning", "error"]
    assert sentences(log_programs.at_each_level, "debug") == ["debug", "info", "warning", "error"]


def test_a_log_that_cannot_be_written_does_not_end_the_process():
    command = python_calling(log_programs.three_times_and_go_on)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, check=True)
    assert done.stdout == b"went on\n"


def test_the_log_file_is_opened_again_after_a_rename_and_kept_if_that_fails(tmp_path):
    log = tmp_path / "logs" / "lonc.log"
    log.parent.mkdir()
    subprocess.run(python_calling(log_programs.renamed_and_removed, log), check=True)
    moved = tmp_path / "old" / "lonc.log.1"
    assert [line.split()[-1] for line in moved.read_text().splitlines()] == ["one"]
    old = (tmp_path / "old" / "lonc.log").read_text().splitlines()
    assert [line.split(": ")[-1] for line in old] == ["four", "five", "a word of somebody else"]
    assert [line.split()[-1] for line in log.read_text().splitlines()] == ["six"]
    assert oct(log.stat().st_mode) == "0o100640"


def test_after_a_line_cut_by_a_full_disk_the_next_starts_a_line():
    command = python_calling(log_programs.cut_by_a_full_disk)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cut, second, third, last = done.stderr.split("\n")
    assert len(cut) == 30
    assert (LINE.fullmatch(second)[4], LINE.fullmatch(third)[4], last) == ("second", "third", "")


def test_a_fifo_with_the_name_of_the_log_does_not_hang_it(tmp_path):
    log = tmp_path / "lonc.log"
    subprocess.run(python_calling(log_programs.replaced_by_a_fifo, log), check=True, timeout=20)
    assert "written on" in (tmp_path / "moved").read_text()


def test_the_file_is_opened_once_and_inherited_by_other_programs(tmp_path):
    log = tmp_path / "lonc.log"
    subprocess.run(python_calling(log_programs.count_opens, log), check=True)
    assert [line.split(": ")[-1] for line in log.read_text().splitlines()] == ["one", "two", "0 True"]


def test_the_root_logger_gets_no_record():
    assert len(say(log_programs.with_a_root_logger)) == 1
