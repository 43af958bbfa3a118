"""What a start and a reload do about faults of all files."""

from dataclasses import replace

import pytest

from lonc.errors import Misconfigured
from lonc.sources import EMPTY, read_sources


@pytest.fixture
def files(tmp_path):
    class Files:
        configuration = tmp_path / "loncapa.conf"
        table = tmp_path / "hosts.tab"

        def write(self, table="l1:d:r:n\n", **settings):
            values = {"lonHostID": "a1", "lonTabDir": tmp_path, **settings}
            lines = [f"PerlSetVar {name} {value}\n" for name, value in values.items()]
            self.configuration.write_text("".join(lines))
            self.table.write_text(table)

        def read(self):
            return read_sources(self.configuration)

    return Files()


def refusal(check):
    """The names of the files whose faults refuse something; [] if they do not."""
    try:
        check()
    except Misconfigured as error:
        return [fault.file.name for fault in error.faults]
    return []


@pytest.mark.parametrize(
    ("table", "settings", "at_start", "at_reload"),
    [
        ("l1:d:r:n\n", {}, [], []),
        ("l1:d:r:n\nl2\n", {}, [], ["hosts.tab"]),
        ("l1:d:r:n\nl2:d:r:n", {}, [], ["hosts.tab"]),
        (
            "l1:d:r:n\nl2\n",
            {"londPort": "x"},
            ["loncapa.conf", "hosts.tab"],
            ["loncapa.conf", "hosts.tab"],
        ),
        ("l2\n", {}, ["hosts.tab", "hosts.tab"], ["hosts.tab"]),
        ("", {}, ["hosts.tab"], []),
        ("", {"loncTrustSockCreate": 1}, [], []),
        (
            "l1:d:r:delayed.x\nl2:d:r:here\n",
            {"loncSocketName": "dns", "lonSockDir": "/s", "lonSockCreate": "/s/here"},
            ["hosts.tab"],
            ["hosts.tab"],
        ),
    ],
)
def test_faults_that_refuse_a_start_or_a_reload(files, table, settings, at_start, at_reload):
    files.write(table, **settings)
    sources = files.read()
    assert refusal(lambda: sources.require_startable(allow_empty=False)) == at_start
    assert refusal(sources.require_no_faults) == at_reload


def test_a_table_without_hosts(files):
    files.write("# none\n")
    sources = files.read()
    assert sources.require_startable() is sources
    with pytest.raises(Misconfigured, match=f": {EMPTY}"):
        sources.require_hosts()
    files.write()
    sources = files.read()
    assert sources.require_hosts() is sources


def test_tables_as_other_settings_have_them(files, tmp_path):
    files.write()
    sources = files.read()
    assert sources.for_settings(replace(sources.settings, lond_port=1)) is sources
    by_dns = sources.for_settings(replace(sources.settings, socket_name="dns"))
    assert [host.name for host in by_dns.hosts] == ["n"]
    assert by_dns.configuration is sources.configuration


def test_it_is_outdated_once_a_file_has_changed(files, tmp_path):
    files.write()
    sources = files.read()
    assert not sources.outdated
    (tmp_path / "loncapa_apache.conf").touch()
    assert sources.outdated
    assert not files.read().outdated
    (tmp_path / "dns_hosts.tab").touch()
    assert files.read().outdated is False
    assert sources.outdated
