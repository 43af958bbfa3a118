"""From the original to lonc and back, with the commands of doc/loncapa.md, while Perl clients ask.

Everything is where a LON-CAPA machine has it, in namespaces of its own: the user is www, and its
directories are in /home/httpd and /etc/httpd/conf.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from network.wan import why_not
from support.machine import BIN_LONC, eventually
from support.perl import PERL, PROGRAMS, WWW, figures, needs_cipher, needs_root

pytestmark = [needs_cipher, needs_root]

STAGE = Path(__file__).with_name("stage.py")
DOCUMENT = (Path(__file__).parents[2] / "doc" / "loncapa.md").read_text()
LOGS = "home/httpd/perl/logs"
HOSTS = {
    "l1": "one.example.org",
    "a1": "one.example.org",
    "l2": "two.example.org",
    "l3": "three.example.org",
}
ADDRESS = {
    "one.example.org": "127.1.0.1",
    "two.example.org": "127.1.0.2",
    "three.example.org": "127.1.0.3",
}
SETTINGS = {
    "lonHostID": "own1",
    "lonTabDir": "/home/httpd/lonTabs",
    "lonSockDir": "/home/httpd/sockets",
    "lonDaemons": "/home/httpd/perl",
    "lonSockCreate": "/home/httpd/sockets/common_parent.sock",
    "londPort": "5663",
    "loncAllowInsecure": "1",
}
OF_OTHERS = ["maximasock", "rsock"]


def line_of_the_document(beginning):
    """The command of the document that begins so."""
    (line,) = re.findall(rf"^ +({re.escape(beginning)}.*?)(?: +#.*)?$", DOCUMENT, re.MULTILINE)
    return line


THERE = line_of_the_document("kill $(cat /home/httpd/perl/logs/lonc.pid); ")
BACK = line_of_the_document("lonc stop; ")


class Stage:
    def __init__(self, root):
        self.root = root
        shutil.copytree("/etc", root / "etc", symlinks=True)
        for name, line in (("passwd", f"www:x:{WWW}:{WWW}::/home:/bin/sh"), ("group", f"www:x:{WWW}:")):
            with (root / "etc" / name).open("a") as file:
                file.write(f"{line}\n")
        with (root / "etc" / "shadow").open("a") as file:
            file.write("www:*:19000:0:99999:7:::\n")
        conf = root / "etc" / "httpd" / "conf"
        conf.mkdir(parents=True)
        (conf / "loncapa.conf").write_text("PerlSetVar lonHostID own1\n")
        (conf / "loncapa_apache.conf").write_text(
            "".join(f"PerlSetVar     {name}     {value}\n" for name, value in SETTINGS.items())
        )
        httpd = root / "home" / "httpd"
        for each in ("sockets/delayed", "perl/logs", "lonTabs"):
            (httpd / each).mkdir(parents=True)
        (httpd / "lonTabs" / "hosts.tab").write_text(
            "".join(f"{id_}:dom:library:{dns}:{ADDRESS[dns]}\n" for id_, dns in HOSTS.items())
        )
        (httpd / "lond.tab").write_text("own1:dom:library:own.example.org:127.0.0.1\n")
        (httpd / "record").touch()
        for each in OF_OTHERS:
            os.mknod(httpd / "sockets" / each, stat.S_IFSOCK | 0o755)
        for each in PROGRAMS.iterdir():
            shutil.copy(each, httpd / "perl")
        original = httpd / "perl" / "lonc"
        original.write_text(f"#!/bin/sh\nexec {PERL} -w /home/httpd/perl/original.pl /etc/httpd/conf\n")
        original.chmod(0o755)
        for each in [httpd, *httpd.rglob("*")]:
            os.chown(each, WWW, WWW)
        for each in (root / "home", *(path for path in httpd.rglob("*") if path.is_dir())):
            each.chmod(0o755)
        self._process = subprocess.Popen(
            [sys.executable, STAGE, root / "home", root / "etc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PATH": f"{BIN_LONC.parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"},
        )

    def close(self):
        self._process.kill()
        self._process.communicate()

    def type(self, command, status=0):
        """Type a command as root and return what it prints."""
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        said = ""
        while not (line := self._process.stdout.readline()).startswith("= "):
            assert line, said
            said += line
        assert line == f"= {status}\n", said
        return said

    def start_lond(self, *ids):
        address = ADDRESS[HOSTS[ids[0]]]
        output = self.root / "home" / ids[0]
        output.write_text("")
        self.perl(
            f"lond.pl --address {address} --port 5663 --table /home/httpd/lond.tab --user {WWW}"
            f" --record /home/httpd/record {' '.join(ids)} >> /home/{ids[0]} 2>&1 &"
            f" echo $! > /home/{ids[0]}.pid"
        )
        eventually(lambda: output.read_text() == "lond listens\n")

    def perl(self, words):
        return self.type(f"{PERL} -w /home/httpd/perl/{words}")

    def client(self, words):
        return self.perl(f"client.pl --lonnet 2 --user {WWW} /etc/httpd/conf {words}").splitlines()

    def carried_out(self):
        """The requests to l3 that lond has got, in their order."""
        lines = (self.root / "home" / "httpd" / "record").read_text().splitlines()
        return [line.split("\t")[2] for line in lines if line.startswith("l3\t")]

    def delayed(self):
        return os.listdir(self.root / "home" / "httpd" / "sockets" / "delayed")


@pytest.fixture
def stage(tmp_path):
    if sentence := why_not():
        pytest.skip(sentence)
    made = Stage(tmp_path)
    yield made
    made.close()


def test_there_and_back(stage):
    stage.start_lond("l1", "a1")
    stage.start_lond("l2")
    stage.type("su -s /bin/sh www -c /home/httpd/perl/lonc")
    eventually((stage.root / LOGS / "lonc.pid").exists)
    assert stage.client("critical l3 first 2") == ["con_delayed"] * 2
    stage.perl(
        f"load.pl --lonnet 2 --user {WWW} --clients 4 --until /home/end /etc/httpd/conf l1 a1 l2"
        " > /home/load 2>&1 &"
    )

    said = stage.type("lonc check", status=1)
    assert "it will not start: another lonc serves: process " in said
    assert "no faults" in said

    assert "lonc is started, pid " in stage.type(THERE)
    assert stage.type("lonc ping l1 a1 l2").count("ms") == 3
    stage.start_lond("l3")
    stage.type("lonc retry")
    eventually(lambda: not stage.delayed())
    first = [f"put:dom:first:nohist:number={number}" for number in (1, 2)]
    assert stage.carried_out() == first

    stage.type("kill $(cat /home/l3.pid)")
    assert stage.client("critical l3 second 2") == ["con_delayed"] * 2
    assert "lonc is stopped" in stage.type(BACK)
    eventually((stage.root / LOGS / "lonc.pid").exists)
    assert "another lonc serves" in stage.type("lonc status", status=3)
    stage.start_lond("l3")
    eventually(lambda: not stage.delayed())
    assert stage.carried_out() == first + [each.replace("first", "second") for each in first]
    assert stage.client("reply a1 ping") == ["a1"]

    (stage.root / "home" / "end").touch()
    done = eventually(lambda: figures((stage.root / "home" / "load").read_text()))
    assert done["wrong"] == 0, done
    assert done["done"] > done["lost"], done
    assert figures("\n".join(stage.client("perm")))["unsent"] == 0
    left = set(os.listdir(stage.root / "home" / "httpd" / "sockets"))
    assert left >= {*OF_OTHERS, "common_parent.sock"}
