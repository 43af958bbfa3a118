"""Somebody who may write into `delayed/` puts more there than anybody can read at once."""

import os
import resource

MEMORY = 1 << 30  # bytes of address space


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def test_a_file_that_is_larger_than_the_memory_is_listed_and_dropped(machine):
    delayed = machine.sockets / "delayed"
    delayed.mkdir(parents=True)
    name = "1700000000.0.4711.put.l1"
    (delayed / name).touch()
    os.truncate(delayed / name, 200 << 30)
    (machine.directory / "daemons" / "logs").mkdir()
    listed = machine.command("delayed", "list", preexec_fn=limit_memory)
    assert (listed.returncode, listed.stderr) == (0, b"")
    shown = machine.command("delayed", "show", name, preexec_fn=limit_memory)
    assert shown.returncode == 1
    assert shown.stderr.decode() == f"lonc: {name}: it is longer than 16777216 bytes\n"
    dropped = machine.command("delayed", "drop", name, preexec_fn=limit_memory)
    assert (dropped.returncode, dropped.stderr) == (0, b"")
    assert os.listdir(delayed) == []
    log = machine.directory / "daemons" / "logs" / "lonnet.perm.log"
    assert log.read_text().split(":")[1:4] == ["F", "l1", "put"]
