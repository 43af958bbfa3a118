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
    lines = say("import os\nspeak_for('msul1')\nlogger.info(os.getpid())")
    assert lines[0][1] == lines[0][3]
    assert lines[0][2] == "msul1"


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
