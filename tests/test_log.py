import os
import re
import subprocess
import sys

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (\w+) (\d+) (\w+): (.*)")


def say(program, level="info"):
    """The lines of `program` on standard error, as (level, pid, host, sentence)."""
    begin = f"from lonc.log import *\nopen_log({level!r})\n"
    command = [sys.executable, "-c", begin + program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return [LINE.fullmatch(line).groups() for line in done.stderr.split("\n")[:-1]]


def test_an_event_is_one_line_with_its_time_level_process_and_host():
    ((level, pid, host, sentence),) = say("logger.warning('%s was lost', 'it')")
    assert (level, host, sentence) == ("WARNING", "parent", "it was lost")
    assert int(pid) != os.getpid()


def test_a_child_logs_the_name_of_its_host():
    lines = say("import os\nlog_as('msul1')\nlogger.info(os.getpid())")
    assert lines[0][1] == lines[0][3]
    assert lines[0][2] == "msul1"


CLOCK = """
class Clock:
    def __init__(self):
        self.now, self.set = 0, []
    def after(self, seconds, callback):
        self.set.append((self.now + seconds, callback))
    def advance(self, seconds):
        self.now += seconds
        due = [callback for when, callback in self.set if when <= self.now]
        self.set = [each for each in self.set if each[0] > self.now]
        for callback in due: callback()
clock = Clock()
limited = RateLimitedLog(clock, "l1: ")
"""


def sentences(program):
    return [line[3] for line in say(CLOCK + program)]


def test_repeats_of_a_message_are_counted_and_logged_as_one_line_a_minute():
    assert sentences("""
for _ in range(3): limited.warn("it is lost")
clock.advance(59)
logger.info("59 s")
clock.advance(1)
limited.warn("it is lost")
clock.advance(60)
clock.advance(60)  # a quiet minute: after it the message is new
limited.warn("it is lost")
""") == [
        "l1: it is lost",
        "59 s",
        "l1: it is lost (2 more in 60 s)",
        "l1: it is lost (1 more in 60 s)",
        "l1: it is lost",
    ]


def test_a_message_logged_in_other_words_counts_as_logged():
    assert sentences("""
limited.mark_logged("it is lost")
limited.warn("it is lost")
limited.mark_logged("it is lost")  # changes nothing
clock.advance(60)
""") == ["l1: it is lost (1 more in 60 s)"]


def test_a_hundred_different_messages_a_minute_are_logged_and_all_others_are_one_line():
    lines = sentences("""
for _ in range(3):
    for number in range(1000): limited.warn(f"message {number}")
clock.advance(60)
logger.info("next minute")
limited.warn("message 999")
""")
    assert lines[:100] == [f"l1: message {number}" for number in range(100)]
    assert sorted(lines[100:201]) == sorted(
        [f"l1: message {number} (2 more in 60 s)" for number in range(100)]
        + ["l1: 2700 more messages, 900 of them different, not logged in 60 s"]
    )
    assert lines[201:] == ["next minute"]  # the hundred repeated ones still hold their places


def test_the_others_are_reported_each_minute_and_not_when_there_are_none():
    lines = sentences("""
for number in range(101): limited.warn(str(number))
clock.advance(60)
for number in range(200, 302): limited.warn(str(number))
clock.advance(60)
clock.advance(60)
limited.warn("new")
""")
    assert [line for line in lines if "message" in line] == [
        "l1: 1 more message, 1 of them different, not logged in 60 s",
        "l1: 2 more messages, 2 of them different, not logged in 60 s",
    ]
    assert lines[-1] == "l1: new"
    assert len(lines) == 100 + 1 + 100 + 1 + 1


def test_the_memory_for_different_messages_is_bounded():
    lines = sentences("""
for number in range(20000): limited.warn(str(number))
held = len(limited._unlogged)
clock.advance(60)
logger.info("%d %d", held, len(limited._unlogged))
""")
    assert lines[100:] == [
        "l1: 19900 more messages, at least 1000 of them different, not logged in 60 s",
        "1000 0",
    ]


def test_a_percent_sign_in_a_message_is_no_format():
    assert sentences("limited.warn('100 %s'); limited.warn('100 %s'); clock.advance(60)") == [
        "l1: 100 %s",
        "l1: 100 %s (1 more in 60 s)",
    ]


def test_control_characters_from_clients_and_londs_are_escaped():
    (line,) = say(r"logger.info('a\nb\r\x1b[2Jc\x85d\u2028e\udcffü')")
    assert line[3] == r"a\nb\r\x1b[2Jc\x85d\u2028e\udcffü"


def test_the_level_is_the_setting():
    program = "for level in ('debug', 'info', 'warning', 'error'): getattr(logger, level)(level)"
    assert [line[3] for line in say(program, "warning")] == ["warning", "error"]
    assert len(say(program, "debug")) == 4


def test_a_log_that_cannot_be_written_does_not_end_the_process():
    begin = "from lonc.log import *\nopen_log('info')\n"
    command = [sys.executable, "-c", begin + "for _ in range(3): logger.info('x')\nprint('went on')"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, check=True)
    assert done.stdout == b"went on\n"


def test_the_log_file_is_opened_again_after_a_rename_and_kept_if_that_fails(tmp_path):
    log = tmp_path / "logs" / "lonc.log"
    log.parent.mkdir()
    program = (
        "import os, shutil; from pathlib import Path; from lonc.log import *\n"
        f"file = Path({str(log)!r}); open_log('info', file)\n"
        "logger.info('one'); file.rename(file.with_name('lonc.log.1'))\n"
        "logger.info('two'); logger.info('three'); file.unlink()\n"
        "logger.info('four'); file.parent.rename(file.parent.with_name('old'))\n"
        "logger.info('five'); file.parent.mkdir()\n"
        "os.write(2, b'a word of somebody else\\n'); logger.info('six')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    moved = tmp_path / "old" / "lonc.log.1"
    assert [line.split()[-1] for line in moved.read_text().splitlines()] == ["one"]
    old = (tmp_path / "old" / "lonc.log").read_text().splitlines()
    assert [line.split(": ")[-1] for line in old] == ["four", "five", "a word of somebody else"]
    assert [line.split()[-1] for line in log.read_text().splitlines()] == ["six"]
    assert oct(log.stat().st_mode) == "0o100640"


def test_after_a_line_cut_by_a_full_disk_the_next_starts_a_line():
    program = (
        "import os; from lonc.log import *; open_log('info'); write = os.write\n"
        "os.write = lambda fd, data: write(fd, data[:30])\n"
        "logger.info('first')\n"
        "os.write = write\n"
        "logger.info('second'); logger.info('third')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    cut, second, third, last = done.stderr.split("\n")
    assert len(cut) == 30
    assert (LINE.fullmatch(second)[4], LINE.fullmatch(third)[4], last) == ("second", "third", "")


def test_a_fifo_with_the_name_of_the_log_does_not_hang_it(tmp_path):
    log = tmp_path / "lonc.log"
    program = (
        "import os; from pathlib import Path; from lonc.log import *\n"
        f"file = Path({str(log)!r}); open_log('info', file)\n"
        "file.rename(file.with_name('moved')); os.mkfifo(file); logger.info('written on')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
    assert "written on" in (tmp_path / "moved").read_text()


def test_the_file_is_opened_once_and_inherited_by_other_programs(tmp_path):
    log = tmp_path / "lonc.log"
    program = (
        "import os; from pathlib import Path; from lonc.log import *\n"
        f"open_log('info', Path({str(log)!r}))\n"
        "opened, open_ = [], os.open\n"
        "os.open = lambda *arguments: opened.append(arguments) or open_(*arguments)\n"
        "logger.info('one'); logger.info('two'); os.open = open_\n"
        "logger.info('%d %s', len(opened), os.get_inheritable(2))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert [line.split(": ")[-1] for line in log.read_text().splitlines()] == ["one", "two", "0 True"]


def test_the_root_logger_gets_no_record():
    assert len(say("import logging; logging.basicConfig(); logger.info('once')")) == 1
