"""Variables of the environment, and the working directory, that name other modules for root's Python."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.machine import BIN_LONC

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root ignores them")

ROOT = Path(__file__).parents[2]


@pytest.fixture
def planted(tmp_path):
    """A directory with modules that leave a file when they are imported."""
    (tmp_path / "modules").mkdir()
    for name in ("sitecustomize", "lonc", "json", "argparse"):
        module = tmp_path / "modules" / f"{name}.py"
        module.write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write({name!r})\n")
    return tmp_path / "modules"


def imported(planted):
    file = planted.parent / "imported"
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize("place", ["environment", "directory"])
@pytest.mark.parametrize("variable", ["PYTHONPATH", "PYTHONUSERBASE"])
def test_the_init_script_imports_none_of_them(machine, planted, place, variable):
    environment = {"LONC_VENV": str(BIN_LONC.parent.parent), "LONC_CONF": str(machine.configuration)}
    if place == "environment":
        environment[variable] = str(planted)
    done = subprocess.run(
        [shutil.which("dash") or "sh", ROOT / "init.d" / "lonc", "status"],
        env=environment, cwd=planted, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, b"lonc is not running\n")
    assert imported(planted) == ""


def test_the_program_imports_no_module_of_ours_from_there(machine, planted):
    """(Python itself has imported sitecustomize before the program begins: see SECURITY.md.)"""
    (planted / "sitecustomize.py").unlink()
    done = subprocess.run(
        [sys.executable, ROOT / "bin" / "lonc", "-c", machine.configuration, "status"],
        env={"PYTHONPATH": str(planted)}, cwd=planted, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (3, b"lonc is not running\n")
    assert imported(planted) == ""
