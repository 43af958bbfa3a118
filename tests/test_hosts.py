from pathlib import Path

import pytest
from support.machine import as_nobody

from lonc.configuration import Settings
from lonc.errors import AtStart, UsageError
from lonc.hosts import Host, find_host, read_hosts, read_tables

ROOT = Path(__file__).parent.parent
SOCKETS = Path("/home/httpd/sockets")


@pytest.fixture
def read(tmp_path):
    def read(text, sockets=SOCKETS):
        file = tmp_path / "hosts.tab"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        table = read_hosts([file], sockets)
        return table.hosts, [str(fault).removeprefix(str(file)) for fault in table.faults]

    return read


def test_real_tables_with_descriptions_and_later_fields(read):
    hosts, faults = read(
        b"# hosts\n"
        b"^shared comment of the cluster\n"
        b"\n"
        b"   \n"
        b"msul1:msu:library:zaphod.lite.msu.edu:35.9.89.22:Michigan State University:100:5\n"
        b"msua3:msu:access:s10.lite.msu.edu:35.9.89.23 \r\n"
        b"fhwfl1:fhwf:library:loncapa.fh.de:134.1.2.3x:Fachhochschule M\xfcnchen\n"
        b"later-1:dom:access:later.example.org:https:more\n"
        b"name_only:dom:access:name.example.org\n"
    )
    assert faults == []
    assert hosts == [
        Host("msul1", "msu", "library", "zaphod.lite.msu.edu", "35.9.89.22", 5),
        Host("msua3", "msu", "access", "s10.lite.msu.edu", "35.9.89.23", 6),
        Host("fhwfl1", "fhwf", "library", "loncapa.fh.de", "134.1.2.3", 7),
        Host("later-1", "dom", "access", "later.example.org", None, 8),
        Host("name_only", "dom", "access", "name.example.org", None, 9),
    ]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("msul1", "a host is id:domain:role:dnsname:address, but this line has 1 field"),
        ("msul1:msu:library", "a host is id:domain:role:dnsname:address, but this line has 3 fields"),
        (":msu:library:x:127.0.0.1", "'' is not a host id"),
        (
            "-l1:msu:library:x:127.0.0.1",
            "'-l1' is not a host id: letters, digits, _ and -, not starting with -",
        ),
        ("../l1:msu:library:x:127.0.0.1", "'../l1' is not a host id"),
        ("l\u00fc:msu:library:x:127.0.0.1", "'l\u00fc' is not a host id"),
        ("delayed:msu:library:x:127.0.0.1", "a host cannot be named delayed"),
        ("first:msu:library:x:127.0.0.1", "first is in line 1 already"),
        ("l1:msu:library:", "l1 has neither an address nor a DNS name"),
        ("l1:msu:library::300.1.1.1", "l1 has neither an address nor a DNS name"),
        (b"l\xff:msu:library:x:127.0.0.1", r"a field has bytes that are not UTF-8: b'l\xff'"),
    ],
)
def test_each_fault_is_one_sentence_with_its_line(read, line, text):
    line = line if isinstance(line, bytes) else line.encode()
    hosts, faults = read(b"first:msu:library:x:127.0.0.1\n" + line + b"\n")
    assert [host.id for host in hosts] == ["first"]
    assert len(faults) == 1
    assert faults[0].startswith(":2: ")
    assert text in faults[0]


def test_all_faults_are_told(read):
    _, faults = read("a\nb:c\nc:d:e:f\n")
    assert [fault[:3] for fault in faults] == [":1:", ":2:"]


def test_a_socket_path_has_107_bytes_at_most(read):
    directory = Path("/" + "d" * 100)
    fits = "12345"
    assert read(f"{fits}:d:r:n\n", directory)[1] == []
    _, faults = read(f"{fits}6:d:r:n\n", directory)
    assert faults == [f":1: the socket path {directory}/{fits}6 is longer than 107 bytes"]
    directory = Path("/" + "d" * 104)
    assert read("1:d:r:n\n", directory)[1] != []  # while it is made it has a dot in front
    assert read("1:d:r:n\n", Path("/" + "d" * 103))[1] == []


@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_a_table_that_cannot_be_read(tmp_path, kind):
    file = tmp_path / "hosts.tab"
    if kind == "directory":
        file.mkdir()
    text = {"missing": "No such file or directory", "directory": "Is a directory"}[kind]
    table = read_hosts([file], SOCKETS)
    assert table.hosts == []
    assert [str(fault) for fault in table.faults] == [f"{file}: {text} (lonTabDir sets the directory)"]


def test_a_table_that_may_not_be_read(tmp_path):
    file = tmp_path / "hosts.tab"
    file.write_text("")
    file.chmod(0)
    said = as_nobody(lambda: str(read_hosts([file], SOCKETS).faults[0]))
    assert said == f"{file}: Permission denied (lonTabDir sets the directory)"


def test_a_host_that_is_not_there_is_answered_with_the_nearest_name(read):
    hosts, _ = read("msul1:d:r:n\nfoo:d:r:n\n")
    table = Path("/t")
    assert find_host(hosts, "foo", table).line == 2
    with pytest.raises(UsageError, match=r"msu1l is not in /t; did you mean msul1\?"):
        find_host(hosts, "msu1l", table)
    with pytest.raises(UsageError, match=r"zzz is not in /t$"):
        find_host(hosts, "zzz", table)


def test_the_table_to_start_from_is_sound():
    assert read_hosts([ROOT / "etc" / "hosts.tab"], SOCKETS).faults == []


def test_a_host_is_the_same_on_whatever_line_it_stands(tmp_path):
    (tmp_path / "one").write_text("l1:d:r:n:127.0.0.1\n")
    (tmp_path / "other").write_text("\n# moved\nl1:d:r:n:127.0.0.1\nl2:d:r:n:127.0.0.1\n")
    one, other = (read_hosts([tmp_path / name], SOCKETS).hosts for name in ("one", "other"))
    assert one[0] == other[0]
    assert one[0] != other[1]


class TestHostsOfOneDnsName:
    """With loncSocketName dns."""

    def read(self, tmp_path, text):
        file = tmp_path / "hosts.tab"
        file.write_text(text)
        table = read_hosts([file], SOCKETS, by_dns=True)
        return table.hosts, [str(fault).removeprefix(str(file)) for fault in table.faults]

    def test_they_are_one_record_with_all_ids(self, tmp_path):
        hosts, faults = self.read(tmp_path, "a:d:r:x:127.0.0.1\nb:d:r:y\nc:d:r:x:127.0.0.1\n")
        assert faults == []
        assert [(host.name, host.id, host.ids) for host in hosts] == [
            ("x", "a", ("a", "c")),
            ("y", "b", ("b",)),
        ]
        assert find_host(hosts, "c", Path("/t")) is hosts[0]
        assert find_host(hosts, "x", Path("/t")) is hosts[0]

    def test_they_have_one_address(self, tmp_path):
        hosts, faults = self.read(tmp_path, "a:d:r:x:127.0.0.1\nc:d:r:x:127.0.0.2\n")
        assert [host.ids for host in hosts] == [("a",)]
        assert faults == [":2: c and a have the same DNS name, but different addresses"]


class TestBothTables:
    """dns_hosts.tab, which LON-CAPA fetches, and hosts.tab."""

    def read(self, tmp_path, fetched, own, **settings):
        if fetched is not None:
            (tmp_path / "dns_hosts.tab").write_text(fetched)
        (tmp_path / "hosts.tab").write_text(own)
        settings = Settings(table_directory=tmp_path, socket_directory=SOCKETS, **settings)
        table = read_tables(settings)
        return table, [str(fault).removeprefix(f"{tmp_path}/") for fault in table.faults]

    @pytest.mark.parametrize("socket_name", ["id", "dns"])
    def test_the_hosts_with_our_id_or_our_dns_name_are_this_machine(self, tmp_path, socket_name):
        table, faults = self.read(
            tmp_path,
            "a:d:library:a.example.org:https:example.org\nc:d:library:A.Example.org:http:example.org\n",
            "b:d:library:b.example.org:127.0.0.1\na1:d:access:a.example.org:127.0.0.2\n",
            host_id="a1",
            socket_name=socket_name,
        )
        assert faults == []
        own = {id_ for host in table.hosts if host.is_own for id_ in host.ids}
        assert own == {"a", "c", "a1"}

    def test_a_host_without_a_dns_name_is_this_machine_by_its_id_only(self, tmp_path):
        table, _ = self.read(tmp_path, None, "a1:d:r::127.0.0.1\nb:d:r::127.0.0.2\n", host_id="a1")
        assert [host.is_own for host in table.hosts] == [True, False]

    def test_an_id_in_both_is_that_of_hosts_tab(self, tmp_path):
        table, faults = self.read(
            tmp_path,
            "a:d:library:a.example.org:https:example.org\nb:d:library:b.example.org:http:example.org\n",
            "^ns.example.org\nb:d:library:b.example.org:127.0.0.1\n",
        )
        assert faults == []
        assert [(host.id, host.address, host.file.name, host.line) for host in table.hosts] == [
            ("a", None, "dns_hosts.tab", 1),
            ("b", "127.0.0.1", "hosts.tab", 2),
        ]

    def test_a_fault_names_its_file(self, tmp_path):
        table, faults = self.read(tmp_path, "a:d:r:n\na:d:r:n\nx", "y\n")
        assert [fault.partition(": ")[0] for fault in faults] == [
            "dns_hosts.tab:2",
            "dns_hosts.tab:3",
            "dns_hosts.tab:3",
            "hosts.tab:1",
        ]
        assert [host.id for host in table.hosts] == ["a"]

    def test_only_hosts_tab_must_exist(self, tmp_path):
        table, faults = self.read(tmp_path, None, "a:d:r:n\n")
        assert (faults, len(table.hosts), len(table.files)) == ([], 1, 2)
        (tmp_path / "hosts.tab").unlink()
        (tmp_path / "dns_hosts.tab").write_text("a:d:r:n\n")
        (fault,) = read_tables(Settings(table_directory=tmp_path)).faults
        assert (fault.file.name, fault.at_start) == ("hosts.tab", AtStart.REFUSES)

    def test_a_host_of_a_dns_name_has_the_address_of_the_others(self, tmp_path):
        table, faults = self.read(
            tmp_path, "a:d:r:x:https:e\n", "b:d:r:x:127.0.0.1\n", socket_name="dns"
        )
        assert faults == []
        assert [(host.ids, host.address) for host in table.hosts] == [(("a", "b"), "127.0.0.1")]


def test_blanks_and_indented_comments_are_skipped_and_a_carriage_return_is_a_fault(read):
    hosts, faults = read(b"\xef\xbb\xbfl1:d:r:n\n  \t\n  # a\n\t^b\nl2:d:r:n\rl3:d:r:n\n")
    assert [host.id for host in hosts] == ["l1"]
    assert faults == [":5: a carriage return inside the line"]


def test_a_table_that_ends_without_a_newline_is_being_written(read):
    hosts, faults = read("l1:d:r:n:127.0.0.12\nl2:d:r:n:127.0.0.1")
    assert [host.id for host in hosts] == ["l1", "l2"]
    assert faults == [":2: the last line has no newline: the file may be being written"]
