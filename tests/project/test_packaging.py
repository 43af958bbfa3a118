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


def copy_of_the_checkout(directory):
    """Without what is made in it."""
    return shutil.copytree(ROOT, directory / "checkout", ignore=shutil.ignore_patterns(*NOT_SOURCE))


def python(*arguments, **options):
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr


def files(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_an_installation_is_complete_and_leaves_nothing_in_the_checkout(tmp_path):
    checkout = copy_of_the_checkout(tmp_path)
    before = files(checkout)
    target = tmp_path / "target"
    without_network = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    python("-m", "pip", "install", *without_network, "--target", target, checkout)
    assert files(checkout) == before
    source = {file for file in files(checkout / "lonc") if "__pycache__" not in file}
    assert source <= files(target / "lonc")
    assert {"man8/lonc.8", "man5/hosts.tab.5", "man5/loncapa.conf.5"} <= files(target / "share" / "man")
    assert (target / "bin" / "lonc").exists()


def test_the_source_distribution_contains_the_whole_project_and_twine_accepts_it(tmp_path):
    pytest.importorskip("twine", reason="twine is not installed")
    checkout, built = copy_of_the_checkout(tmp_path), tmp_path / "dist"
    source = files(checkout) - {".gitignore"}
    python("-m", "build", "--no-isolation", "--outdir", built, checkout)
    archives = sorted(built.iterdir())
    assert [archive.suffix for archive in archives] == [".whl", ".gz"]
    with tarfile.open(archives[1]) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    assert source <= packed
    python("-m", "twine", "check", "--strict", *archives)
