"""requirements/constraints.txt: each dependency, in an allowed version, with hashes of its files."""

import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PINNED = re.compile(r"^([\w.-]+)==([\w.]+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.M)


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_each_dependency_is_pinned_to_an_allowed_version_with_hashes():
    text = (ROOT / "requirements" / "constraints.txt").read_text()
    pinned = {normalized(name): version for name, version, _ in PINNED.findall(text)}
    assert len(pinned) == text.count("==")
    needed = [Requirement(each) for each in requires("lonc") or []]
    for requirement in needed:
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("top", "metrics")):
            assert requirement.specifier.contains(pinned[normalized(requirement.name)])
    assert len(pinned) >= 6
