"""A real daemon whose files have faults or have changed; settings that come from several files."""

import re

import pytest
from support.machine import eventually, read_line
from support.scripted_lond import ScriptedLond, remembering

BAD = "l2:dom:library"


@pytest.fixture
def machine(forks, machine):  # `forks` must begin before the test's descriptors are counted
    machine.configure(loncDelayedInterval="0.2")
    return machine


def status(machine):
    done = machine.command("status")
    assert done.returncode == 0
    return done.stdout.decode()


def health(machine):
    done = machine.command("check-health", "--dead", "9")
    return done.returncode, done.stdout.decode().partition(" |")[0]


def add_to_table(machine, line):
    machine.table.write_text(machine.table.read_text() + line)


@pytest.mark.parametrize("command", ["start", "run"])
def test_a_start_serves_the_good_lines_and_reports_the_others(machine, command):
    good = machine.table.read_text()
    add_to_table(machine, f"{BAD}\nl3:dom:library:l3.example.org:{machine.address(3)}\n")
    machine.start_lond("l1")
    (machine.start if command == "start" else machine.run)()
    assert set(machine.children()) == {"l1", "l3"}
    assert machine.ask(b"ping", "l1") == b"l1"
    assert machine.command("send", "l1", "ping").stdout == b"l1\n"
    fault = f"{machine.table}:2: a host is id:domain:role:dnsname:address, but this line has 3 fields"
    assert re.search(rf"(?i)error.*{re.escape(fault)}", machine.log())
    assert f"faults in the files on the disk: {fault}" in status(machine)
    eventually(lambda: health(machine)[0] == 1)
    assert fault in health(machine)[1]
    checked = machine.command("check")
    assert (checked.returncode, checked.stdout.decode()) == (6, f"{fault}\n")
    for order in ("reload", "update"):
        refused = machine.command(order)
        assert (refused.returncode, refused.stderr.decode()) == (6, f"lonc: {fault}\n")
    machine.table.write_text(good)
    assert machine.command("update").returncode == 0
    assert "faults" not in status(machine)
    assert machine.command("check").returncode == 0


def test_a_running_daemon_reports_faults_that_have_come(machine):
    machine.start_lond("l1")
    machine.start()
    good = machine.table.read_text()
    add_to_table(machine, f"{BAD}\n")
    eventually(lambda: "faults in the files on the disk" in status(machine))
    eventually(lambda: health(machine)[0] == 1)
    machine.table.write_text(good)
    eventually(lambda: "files on the disk" not in status(machine))
    text = machine.configuration.read_text()
    machine.configuration.write_text(f"{text}PerlSetVar londPort x\n")
    eventually(lambda: "lonc would not start with the files on the disk" in status(machine))
    assert "londPort: 'x' is not a whole number" in health(machine)[1]
    machine.configuration.write_text(text)
    machine.table.write_text("")
    eventually(lambda: f"files on the disk: {machine.table}: no hosts" in status(machine))


def test_a_table_that_is_being_written_is_a_warning_at_a_start(machine):
    machine.table.write_text(machine.table.read_text().rstrip("\n"))
    machine.start()
    assert "l1" in machine.children()
    assert re.search(r"(?i)warning.*hosts\.tab:1: the last line has no newline", machine.log())
    assert b"the last line has no newline" in machine.command("check-health").stdout
    assert machine.command("reload").returncode == 6


def test_a_changed_table_is_reported_and_an_update_takes_it(machine):
    machine.start_lond("l1")
    machine.start()
    add_to_table(machine, f"l2:dom:library:l2.example.org:{machine.address(2)}\n")
    changed = rf"{machine.table} has changed since \d\d:\d\d: `lonc update` takes it"
    eventually(lambda: re.search(changed, status(machine)))
    eventually(lambda: health(machine)[0] == 0)
    assert set(machine.children()) == {"l1"}
    assert machine.command("update").returncode == 0
    assert "has changed" not in status(machine)


def test_with_table_watch_2_a_changed_table_is_taken(machine):
    machine.configure(loncDelayedInterval="0.2", loncTableWatch="2")
    machine.start()
    fetched = machine.table.with_name("dns_hosts.tab")
    fetched.write_text("l2:dom:library:localhost:https:example.org\nl3\n")
    eventually(lambda: "faults in the files on the disk" in status(machine))
    assert set(machine.children()) == {"l1"}
    fetched.write_text("l2:dom:library:localhost:https:example.org\n")
    eventually(lambda: set(machine.children()) == {"l1", "l2"})


def test_with_table_watch_0_nothing_is_reported(machine):
    machine.configure(loncDelayedInterval="0.1", loncTableWatch="0")
    machine.start()
    add_to_table(machine, f"{BAD}\n")
    machine.command("status")
    assert "files on the disk" not in status(machine)


def test_a_host_that_only_a_client_names_is_served_if_clients_are_trusted(machine):
    create = machine.sockets / "common_parent"
    machine.configure(lonSockCreate=create, loncTrustSockCreate="1", loncKeyMode="classic")
    machine.table.write_text("")
    machine.start()
    seen = []
    with ScriptedLond("127.0.0.1", machine.port, remembering(seen)):
        with machine.connect("common_parent") as asking:
            asking.sendall(b"localhost:n1:n2\n")
            assert read_line(asking) == b"done"
        assert machine.ask(b"sethost:n2:a", "localhost") == b"ok"
        assert machine.command("reload").returncode == 0
        assert machine.ask(b"sethost:n1:b", "localhost") == b"ok"
    assert seen == [b"sethost:n2:a", b"sethost:n1:b"]
    assert " 1 host, all healthy" in status(machine)
    machine.configure(lonSockCreate=create, loncKeyMode="classic")
    assert machine.command("reload").returncode == 0
    assert machine.socket_files() == ["common_parent"]


def test_config_prints_each_setting_with_its_origin(machine):
    apache = machine.configuration.with_name("loncapa_apache.conf")
    create = machine.sockets / "common_parent"
    apache.write_text(f"PerlSetVar loncDelayedInterval 7\nPerlSetVar lonSockCreate {create}\n")
    done = machine.command("config")
    assert (done.returncode, done.stderr) == (0, b"")
    rows = {line.split()[0]: re.split("  +", line)[1:] for line in done.stdout.decode().splitlines()}
    assert rows["SETTING"] == ["VALUE", "RESTART", "FROM"]
    assert rows["lonHostID"] == ["a1", "reload", f"{machine.configuration}:1"]
    assert rows["loncDelayedInterval"] == ["7", "reload", f"{apache}:1"]
    assert rows["loncSocketMode"] == ["0660", "restart", "default"]
    assert rows["loncUser"] == ["-", "restart", "default"]
    assert rows["loncSocketName"] == ["dns", "restart", f"lonSockCreate is set ({apache}:2)"]
    machine.configure(londPort="x")
    done = machine.command("config")
    assert (done.returncode, done.stderr.count(b"\n")) == (6, 1)
    assert b"londPort" in done.stdout


def test_config_running_prints_those_that_differ_in_the_daemon(machine):
    assert machine.command("config", "--running").returncode == 7
    machine.start()
    done = machine.command("config", "--running")
    assert done.stdout == b"lonc runs with the settings of the files\n"
    machine.configure(loncDelayedInterval="9", loncSocketMode="0600")
    lines = machine.command("config", "--running").stdout.decode().splitlines()
    assert [re.split("  +", line)[:4] for line in lines] == [
        ["SETTING", "RUNNING", "FILES", "RESTART"],
        ["loncSocketMode", "0660", "0600", "restart"],
        ["loncDelayedInterval", "0.2", "9", "reload"],
    ]


def test_check_says_what_it_took_for_later_lon_capa_and_what_cannot_work(machine):
    machine.table.write_text("l1:d:r:one.example.org\nl2:d:r:one.example.org\n")
    done = machine.command("check")
    assert done.returncode == 0
    need = "loncSocketName dns and a loncKeyMode other than classic"
    warning = (
        f"{machine.table}:2: warning: l2 and l1 have one DNS name, one.example.org: that needs {need}"
    )
    assert warning in done.stdout.decode().splitlines()
    machine.configure(lonSockCreate=machine.sockets / "common_parent")
    lines = machine.command("check").stdout.decode().splitlines()
    names = [line.split()[1] for line in machine.configuration.read_text().splitlines()]
    set_in = names.index("lonSockCreate") + 1
    place = f"{machine.configuration}:{set_in}: lonSockCreate is set"
    assert lines[:3] == [
        f"{place}: loncSocketName is dns",
        f"{place}, no certificates are set: loncKeyMode is insecure",
        f"{place}: loncChildren is ondemand",
    ]
    assert not [line for line in lines if "warning: l2" in line]
