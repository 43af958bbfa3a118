import os
import re
import subprocess
import sys

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (\w+) (\d+) (\w+): (.*)")


def say(program, level="info"):
    """What stands on standard error after `program`, as (level, pid, host, sentence)."""
    begin = f"from lonc.log import *\nopen_log({level!r})\n"
    command = [sys.executable, "-c", begin + program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return [LINE.fullmatch(line).groups() for line in done.stderr.split("\n")[:-1]]


def test_one_event_is_one_line_with_all_that_belongs_to_it():
    ((level, pid, host, sentence),) = say("logger.warning('%s was lost', 'it')")
    assert (level, host, sentence) == ("WARNING", "parent", "it was lost")
    assert int(pid) != os.getpid()


def test_a_child_speaks_for_its_host():
    lines = say("import os\nlog_as('msul1')\nlogger.info(os.getpid())")
    assert lines[0][1] == lines[0][3]
    assert lines[0][2] == "msul1"


def test_the_same_complaint_is_told_at_once_and_then_counted_once_a_minute():
    program = """
class Clock:
    def after(self, seconds, callback):
        assert seconds == 60
        self.ring = callback
clock = Clock()
complaints = RateLimitedLog(clock)
for _ in range(3): complaints.warn("it is lost")
clock.ring()
clock.ring()  # a quiet minute: then it is news again
complaints.warn("it is lost")
complaints.mark_logged("it is lost again")
complaints.warn("it is lost again")
clock.ring()
for number in range(1000): complaints.warn(str(number))
"""
    told = [line[3] for line in say(program)]
    assert told[:4] == [
        "it is lost",
        "it is lost (2 more in 60 s)",
        "it is lost",
        "it is lost again (1 more in 60 s)",
    ]
    assert told[4:] == [str(number) for number in range(1000)]


def test_what_others_said_cannot_make_a_line_of_its_own_or_move_the_cursor():
    (line,) = say(r"logger.info('a\nb\r\x1b[2Jc\x85d\u2028e\udcffü')")
    assert line[3] == r"a\nb\r\x1b[2Jc\x85d\u2028e\udcffü"


def test_the_level_is_the_setting():
    program = "for level in ('debug', 'info', 'warning', 'error'): getattr(logger, level)(level)"
    assert [line[3] for line in say(program, "warning")] == ["warning", "error"]
    assert len(say(program, "debug")) == 4


def test_a_log_that_cannot_be_written_is_no_reason_to_stop():
    begin = "from lonc.log import *\nopen_log('info')\n"
    command = [sys.executable, "-c", begin + "for _ in range(3): logger.info('x')\nprint('went on')"]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, check=True)
    assert done.stdout == b"went on\n"


def test_a_file_is_followed_when_its_name_leads_elsewhere_and_kept_where_it_cannot_be(tmp_path):
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
