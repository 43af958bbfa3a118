"""Files on the disk against those in force: real files."""

import pytest

from lonc.errors import Misconfigured
from lonc.parent.source_watch import SourceWatch
from lonc.sources import read_sources


class Bench:
    def __init__(self, directory):
        self.configuration = directory / "loncapa.conf"
        self.table = directory / "hosts.tab"
        self.fetched = directory / "dns_hosts.tab"
        self.configuration.write_text(f"PerlSetVar lonHostID a1\nPerlSetVar lonTabDir {directory}\n")
        self.table.write_text("l1:d:r:n\n")
        self.reads = 0
        self.watch = SourceWatch(self.load(), self.load)
        self.reads = 0

    def load(self):
        self.reads += 1
        return read_sources(self.configuration)

    def status(self):
        return self.watch.status()

    def changed(self):
        return [sentence.partition(" ")[0] for sentence in self.status().changed]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_without_a_change_nothing_is_read(bench):
    assert not bench.watch.look()
    assert bench.reads == 0
    status = bench.status()
    assert (status.faults, status.fault_count, status.would_start, status.changed) == ([], 0, True, [])


def test_a_changed_table_is_reported_and_can_be_taken_at_the_next_look(bench):
    bench.table.write_text("l1:d:r:n\nl2:d:r:n\n")
    assert not bench.watch.look()
    (sentence,) = bench.status().changed
    assert sentence.startswith(f"{bench.table} has changed since ")
    assert sentence.endswith(": `lonc update` takes it")
    assert bench.watch.look()
    assert not bench.watch.look()  # if it could not be taken, another attempt waits for a change
    assert bench.reads == 1
    bench.watch.take(bench.watch.read(), all_files=False)
    assert not bench.watch.look()
    assert bench.changed() == []


def test_a_file_that_was_replaced_by_its_like_has_not_changed(bench):
    beside = bench.table.with_name("beside")
    beside.write_bytes(bench.table.read_bytes())
    beside.rename(bench.table)
    assert not bench.watch.look()
    assert not bench.watch.look()
    assert (bench.reads, bench.changed()) == (1, [])


def test_a_table_that_comes_or_goes_has_changed(bench):
    bench.fetched.write_text("l2:d:r:n\n")
    bench.watch.look()
    assert bench.changed() == [str(bench.fetched)]
    assert bench.watch.look()


def test_a_configuration_is_taken_by_a_reload_only(bench):
    text = bench.configuration.read_text()
    bench.configuration.write_text(f"{text}PerlSetVar londPort 1\n")
    bench.watch.look()
    assert not bench.watch.look()
    (sentence,) = bench.status().changed
    assert sentence.endswith(": `lonc reload` takes it")
    bench.watch.take(bench.watch.read(), all_files=False)
    assert bench.changed() == [str(bench.configuration)]
    bench.watch.take(bench.watch.read(), all_files=True)
    assert bench.changed() == []


@pytest.mark.parametrize("text", ["l1:d:r:n\nl2\n", "l1:d:r:n\nl2:d:r:n", ""])
def test_a_faulty_unfinished_or_empty_table_is_not_to_be_taken(bench, text):
    bench.table.write_text(text)
    assert not bench.watch.look()
    assert not bench.watch.look()
    status = bench.status()
    assert (len(status.faults), status.fault_count, status.would_start) == (1, 1, text != "")


def test_a_fault_is_logged_once(bench, caplog):
    bench.table.write_text("l1\n")
    bench.watch.look()
    bench.table.write_text("l1\nl2\n")
    bench.watch.look()
    bench.watch.look()
    place = f"the files on the disk have a fault: {bench.table}"
    assert [message.partition(": a host")[0] for message in caplog.messages] == [
        f"{place}:1",
        f"{place}:2",
    ]


def test_faults_that_refuse_a_start_stand_first_and_a_report_has_ten(bench):
    text = bench.configuration.read_text()
    bench.table.write_text("x\n" * 12)
    bench.configuration.write_text(f"{text}PerlSetVar londPort x\n")
    bench.watch.look()
    status = bench.status()
    assert (len(status.faults), status.fault_count, status.would_start) == (10, 13, False)
    assert "londPort" in status.faults[0]


def test_a_configuration_that_is_missing(bench):
    bench.configuration.unlink()
    assert not bench.watch.look()
    assert bench.status().faults == [f"{bench.configuration}: No such file or directory"]
    assert (bench.status().would_start, bench.status().changed) == (False, [])
    with pytest.raises(Misconfigured):
        bench.watch.read()
