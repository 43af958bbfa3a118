"""What an installation contains, and that it leaves nothing in the checkout."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_SOURCE = (".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")

pytest.importorskip("build", reason="build is not installed")


@pytest.fixture
def checkout(tmp_path):
    """A copy of the checkout, without what is made in it."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    return copy


def python(*arguments, **options):
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr


def files(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_an_installation_is_complete_and_leaves_nothing_in_the_checkout(checkout, tmp_path):
    before = files(checkout)
    target = tmp_path / "target"
    without_network = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    python("-m", "pip", "install", *without_network, "--target", target, checkout)
    assert files(checkout) == before
    source = {file for file in files(checkout / "lonc") if "__pycache__" not in file}
    assert source <= files(target / "lonc")
    assert {"man8/lonc.8", "man5/hosts.tab.5", "man5/loncapa.conf.5"} <= files(target / "share" / "man")
    assert (target / "bin" / "lonc").exists()


def test_the_source_distribution_contains_the_whole_project(checkout, tmp_path):
    python("-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path / "dist", checkout)
    (archive,) = (tmp_path / "dist").iterdir()
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    made = {file for file in files(checkout) if file.startswith("lonc.egg-info/")}
    assert files(checkout) - made - {".gitignore"} <= packed


def test_the_descriptions_of_the_package_are_accepted(checkout, tmp_path):
    pytest.importorskip("twine", reason="twine is not installed")
    python("-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", checkout)
    python("-m", "twine", "check", "--strict", *(tmp_path / "dist").iterdir())
