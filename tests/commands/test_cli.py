import contextlib
import io
import os
import re
import subprocess

import pytest
from support.machine import LONC, as_nobody
from support.scripted_lond import ScriptedLond

import lonc
from lonc.commands import send
from lonc.commands.cli import COMMANDS, GROUPS, main, parser
from lonc.spool import spool


def of_root(machine):
    """The line of `check` if root calls it, and no user is set."""
    text = "loncUser is not set: lonc runs as root, and nobody else can send requests"
    return [f"{machine.configuration}: warning: {text}"] if os.getuid() == 0 else []


def test_check_of_sound_files(machine):
    done = machine.command("check")
    assert done.returncode == 0
    files = f"{machine.configuration} and {machine.table}"
    assert done.stdout.decode().splitlines() == [*of_root(machine), f"{files}: no faults; hosts: 1"]


def test_check_warns_of_what_run_will_trip_over(machine):
    machine.table.write_text("# no hosts yet\n")
    machine.configure(lonSockDir="/nowhere/sockets", lonDaemons="/nowhere")
    done = machine.command("check")
    assert done.returncode == 1
    warning = f"{machine.configuration}: warning: it will not start"
    said = [line for line in done.stdout.decode().splitlines() if line not in of_root(machine)]
    assert said[:3] == [
        f"{machine.table}: warning: no hosts; `lonc start` needs --empty",
        f"{warning}: cannot make /nowhere/sockets (lonSockDir): there is no /nowhere",
        f"{warning}: cannot make /nowhere/logs (lonDaemons): there is no /nowhere",
    ]


@pytest.mark.parametrize(
    ("obstacle", "sentence"),
    [
        ("sockets", "{sockets} (lonSockDir) is no directory"),
        ("sockets/delayed", "cannot make {sockets}/delayed (lonSockDir): File exists"),
        ("sockets/l1/", "{sockets}/l1 is in the way, and no socket: remove it"),
        ("daemons/logs/lonc.log/", "cannot write {logs}/lonc.log"),
        ("", "cannot connect from 192.0.2.1 (loncBindAddress): Cannot assign requested address"),
    ],
)
def test_what_would_keep_it_from_starting_is_a_warning_and_no_reason_to_stop(
    machine, obstacle, sentence
):
    place = machine.directory / obstacle
    place.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    if obstacle.endswith("/"):
        place.mkdir()
    elif obstacle:
        place.touch()
    else:
        machine.configure(loncBindAddress="192.0.2.1")
    sentence = sentence.format(sockets=machine.sockets, logs=machine.pid_file.parent)
    done = machine.command("check")
    assert done.returncode == 1
    warning = f"{machine.configuration}: warning: it will not start: {sentence}"
    assert warning in done.stdout.decode().splitlines()
    done = machine.command("restart")
    assert (done.returncode, done.stderr.decode()) == (1, f"lonc: {sentence}; nothing is stopped\n")


@pytest.mark.parametrize("command", ["check", "run"])
def test_all_faults_of_both_files_are_told_and_nothing_is_made(machine, command):
    machine.configure(londPort="x", loncXy=1)
    machine.table.write_text("# table\nl1\n../x:d:r:n\n")
    done = machine.command(command)
    assert done.returncode == 6
    output = done.stdout if command == "check" else done.stderr
    configuration = machine.configuration
    prefix = "" if command == "check" else "lonc: "  # check prints faults without prefix
    assert output.decode().splitlines() == [
        prefix + fault
        for fault in (
            f"{configuration}:5: londPort: 'x' is not a whole number",
            f"{configuration}:6: there is no setting 'loncXy'",
            f"{machine.table}:2: a host is id:domain:role:dnsname:address, but this line has 1 field",
            f"{machine.table}:3: '../x' is not a host id: letters, digits, _ and -, not starting with -",
        )
    ]
    assert done.stdout + done.stderr == output
    assert not machine.sockets.exists()
    assert not machine.pid_file.parent.exists()


def test_a_table_that_is_missing(machine):
    machine.table.unlink()
    for command in ("check", "run", "ping", "send l1 ping", "lond l1"):
        done = machine.command(*command.split())
        assert done.returncode == 6
        assert f"{machine.table}: No such file or directory" in (done.stdout + done.stderr).decode()


def test_a_configuration_that_is_missing(machine):
    machine.configuration.unlink()
    done = machine.command("check")
    assert done.returncode == 6
    assert done.stdout.decode() == f"{machine.configuration}: No such file or directory\n"


def test_send(machine):
    machine.start_lond("l1")
    machine.run()
    done = machine.command("send", "l1", "echo:hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")
    done = machine.command("send", "l1", b"encrypt:echo:\xff")
    assert done.stdout == b"\xff\n"


def test_send_lines_from_standard_input(machine):
    machine.start_lond("l1")
    machine.run()
    lines = b"".join(b"echo:%d\n" % number for number in range(100)) + b"echo:last"
    done = machine.command("send", "l1", "-", input=lines)
    assert done.returncode == 0
    assert done.stdout == b"".join(b"%d\n" % number for number in range(100)) + b"last\n"


def test_send_goes_on_after_con_lost_and_says_so_at_the_end(machine):
    def script(peer):
        peer.greet()
        while (line := peer.hear()) not in (None, b"break"):
            peer.say(line)

    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        done = machine.command("send", "l1", "-", input=b"one\nbreak\ntwo\n")
        assert (done.returncode, done.stdout) == (1, b"one\ncon_lost\ntwo\n")
        machine.stop()


def test_send_of_what_is_critical(machine):
    machine.start_lond("l1")
    machine.run()
    done = machine.command("send", "--critical", "l1", "echo:hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")


def test_send_of_what_is_critical_and_must_wait(machine):
    settings = machine.settings()
    machine.sockets.mkdir()
    spool.save(settings, b"zero", "l1")  # so that lonc makes no attempt before it
    done = machine.command("send", "l1", "--critical", "-", input=b"one\ntwo\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"con_delayed\n" * 2, b"")
    names, _ = spool.waiting(settings.delayed_directory)
    requests = [(settings.delayed_directory / str(name)).read_bytes() for name in names]
    assert requests == [b"zero\n", b"one\n", b"two\n"]


def test_send_of_what_is_critical_and_cannot_be_saved(machine):
    done = machine.command("send", "--critical", "l1", "put:x")
    assert (done.returncode, done.stdout) == (1, b"con_failed\n")
    assert b"is lonc running?" in done.stderr


@pytest.mark.parametrize("command", [["send", "l1", "ping"], ["ping"]])
def test_without_a_lonc_it_is_con_lost_and_why(machine, command):
    done = machine.command(*command)
    assert done.returncode == 1
    assert done.stdout.endswith(b"con_lost\n")
    why = f"lonc: nothing listens at {machine.sockets}/l1: is lonc running?\n"
    assert done.stderr.decode() == why


def test_a_socket_that_one_may_not_use_is_con_lost_and_why(machine):
    machine.run()
    settings = machine.settings()

    def complaint():
        with contextlib.redirect_stderr(io.StringIO()) as said:
            send.print_socket_error(settings, "l1")
        return said.getvalue()

    assert as_nobody(complaint) == f"lonc: cannot connect to {machine.sockets}/l1: Permission denied\n"
    assert complaint() == ""


@pytest.mark.parametrize("command", [["send", "l11", "ping"], ["ping", "l11"], ["lond", "l11"]])
def test_a_host_that_is_not_in_the_table_is_answered_with_the_nearest(machine, command):
    done = machine.command(*command)
    assert done.returncode == 2
    assert done.stderr == f"lonc: l11 is not in {machine.table}; did you mean l1?\n".encode()


def test_a_request_of_two_lines_is_refused(machine):
    done = machine.command("send", "l1", "one\ntwo")
    assert done.returncode == 2
    assert b"a request is one line" in done.stderr


def test_ping_all_and_some(machine):
    machine.hosts("l1", "longer", "l3")
    for host in ("l1", "l3"):
        machine.start_lond(host)
    machine.run()
    done = machine.command("ping")
    assert done.returncode == 1
    expected = [r"l1 +[\d.]+ ms  l1", r"longer +[\d.]+ ms  con_lost", r"l3 +[\d.]+ ms  l3"]
    for line, form in zip(done.stdout.decode().splitlines(), expected, strict=True):
        assert re.fullmatch(form, line)
    done = machine.command("ping", "l3", "l1")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.decode().splitlines()] == ["l3", "l1"]


def test_what_lond_answers_cannot_move_the_cursor(machine):
    def script(peer):
        peer.greet()
        peer.hear()
        peer.say(b"\x1b[2J\xff")
        peer.hear()

    with ScriptedLond(machine.address(1), machine.port, script):
        machine.run()
        assert machine.command("ping").stdout.endswith(rb"ms  \x1b[2J\xff" + b"\n")
        machine.stop()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the following arguments are required: COMMAND; see `lonc help`"),
        (["nonsense"], "there is no command `lonc nonsense`"),
        (["sttus"], "there is no command `lonc sttus`; did you mean status?"),
        (["delayed"], "the following arguments are required: COMMAND; see `lonc help delayed`"),
        (["delayed", "lst"], "there is no command `lonc delayed lst`; did you mean list?"),
        (["help", "sttus"], "there is no command `lonc sttus`; did you mean status?"),
        (["help", "delayed", "lst"], "there is no command `lonc delayed lst`; did you mean list?"),
        (["help", "status", "more"], "there is no command `lonc status more`"),
        (["send", "l1"], "the following arguments are required: REQUEST; see `lonc help send`"),
        (
            ["delayed", "show"],
            "the following arguments are required: NAME; see `lonc help delayed show`",
        ),
        (["status", "--nonsense"], "unrecognized arguments: --nonsense; see `lonc help`"),
        (
            ["send", "--parallel", "x", "l1", "-"],
            "argument --parallel: invalid int value: 'x'; see `lonc help send`",
        ),
    ],
)
def test_wrong_usage_is_one_line_in_the_shape_of_all_errors(arguments, sentence):
    done = subprocess.run([*LONC, *arguments], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", f"lonc: {sentence}\n")


def run_main(capsys, *arguments):
    """Output of a command that needs no daemon."""
    with contextlib.suppress(SystemExit):  # raised by --help
        assert main(arguments) == 0
    return capsys.readouterr().out


def test_version():
    done = subprocess.run([*LONC, "--version"], capture_output=True)
    assert done.stdout.decode() == f"lonc {lonc.__version__}\n"


def test_help_lists_every_command_once_in_its_group(capsys):
    sections = dict(
        part.split(":\n", 1) for part in run_main(capsys, "help").split("\n\n") if ":\n" in part
    )
    for group, heading in GROUPS.items():
        listed = [command for command in COMMANDS if command.group == group and command.run]
        assert listed
        rows = [
            re.fullmatch(r"    (\S+(?: \S+)?) +(.+)", row).groups()
            for row in sections[heading].splitlines()
        ]
        assert rows == [(command.name, command.help) for command in listed]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_a_command_is_the_same_in_both_spellings(capsys, command):
    words = command.name.split()
    text = run_main(capsys, "help", *words)
    assert text == run_main(capsys, *words, "--help")
    assert text.startswith(f"usage: lonc {command.name} ")
    assert command.description in " ".join(text.split("\n\n")[1].split("\n"))
    assert text.endswith(f"\nexample: lonc {command.example}\n")
    for argument in command.arguments:
        assert argument.help in " ".join(text.split())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_example_of_a_command_is_one_of_its_own(command):
    words = command.example.partition(" < ")[0].split()
    options = parser().parse_args(words)
    name = "delayed list" if command.name == "delayed" else command.name
    (declared,) = (each for each in COMMANDS if each.name == name)
    assert options.run == declared.run
    assert f" {name} " in f" {command.example} "


@pytest.mark.parametrize(
    ("arguments", "configuration"),
    [
        (["status"], None),
        (["-c", "a", "status"], "a"),
        (["status", "-c", "a"], "a"),
        (["-c", "b", "status", "-c", "a"], "a"),
        (["-c", "a", "delayed", "list"], "a"),
        (["delayed", "-c", "a", "list"], "a"),
        (["delayed", "list", "-c", "a"], "a"),
        (["send", "l1", "ping", "-c", "a"], "a"),
    ],
)
def test_the_configuration_may_be_named_before_and_behind_the_command(arguments, configuration):
    assert parser().parse_args(arguments).configuration == configuration


def test_a_configuration_named_behind_the_command_is_read(machine):
    done = subprocess.run([*LONC, "check", "-c", machine.configuration], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(os.fsencode(machine.configuration))


def test_whoever_stops_reading_our_output_is_no_error_message(machine):
    machine.start_lond("l1")
    machine.run()
    command = [*LONC, "-c", machine.configuration, "send", "l1", "-"]
    sending = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    sending.stdout.close()
    sending.stdin.write(b"ping\n" * 10)
    sending.stdin.close()
    assert sending.stderr.read() == b""
    assert sending.wait(10) == 1
    sending.stderr.close()


def test_with_its_standard_streams_closed_it_does_what_it_can(machine):
    machine.start_lond("l1")
    machine.run()
    lonc = " ".join([*LONC, "-c", str(machine.configuration)])
    for command, status in (
        ("send l1 ping >&-", 0),
        ("send l1 - <&-", 0),
        ("ping <&- >&-", 0),
        ("check >&-", 0),
        ("ping nobody 2>&-", 2),
        ("send l1 ping >/dev/full", 1),
        ("ping >/dev/full", 1),
        ("check >/dev/full", 1),
    ):
        done = subprocess.run(["sh", "-c", f"exec {lonc} {command}"], capture_output=True)
        assert (done.returncode, done.stdout) == (status, b"")
        assert b"Traceback" not in done.stderr
        if "full" in command:
            assert done.stderr == b"lonc: cannot write the output: No space left on device\n"
