from pathlib import Path

import pytest
from support.machine import as_nobody

from lonc.errors import UsageError
from lonc.hosts import Host, find_host, read_hosts

ROOT = Path(__file__).parent.parent
SOCKETS = Path("/home/httpd/sockets")


@pytest.fixture
def read(tmp_path):
    def read(text, sockets=SOCKETS):
        file = tmp_path / "hosts.tab"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        hosts, faults = read_hosts(file, sockets)
        return hosts, [str(fault).removeprefix(str(file)) for fault in faults]

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
        b"name_only:dom:access:name.example.org"
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
    hosts, faults = read_hosts(file, SOCKETS)
    assert hosts == []
    assert [str(fault) for fault in faults] == [f"{file}: {text} (lonTabDir sets the directory)"]


def test_a_table_that_may_not_be_read(tmp_path):
    file = tmp_path / "hosts.tab"
    file.write_text("")
    file.chmod(0)
    said = as_nobody(lambda: str(read_hosts(file, SOCKETS)[1][0]))
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
    _, faults = read_hosts(ROOT / "etc" / "hosts.tab", SOCKETS)
    assert faults == []


def test_a_host_is_the_same_on_whatever_line_it_stands(tmp_path):
    (tmp_path / "one").write_text("l1:d:r:n:127.0.0.1\n")
    (tmp_path / "other").write_text("\n# moved\nl1:d:r:n:127.0.0.1\nl2:d:r:n:127.0.0.1\n")
    one, other = (read_hosts(tmp_path / name, SOCKETS)[0] for name in ("one", "other"))
    assert one[0] == other[0]
    assert one[0] != other[1]


class TestHostsOfOneDnsName:
    """With loncSocketName dns."""

    def read(self, tmp_path, text):
        file = tmp_path / "hosts.tab"
        file.write_text(text)
        hosts, faults = read_hosts(file, SOCKETS, by_dns=True)
        return hosts, [str(fault).removeprefix(str(file)) for fault in faults]

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
