import pytest
from network.wan import Wan, why_not
from network.wide_machine import WideMachine


@pytest.fixture(scope="session")
def namespaces():
    if sentence := why_not():
        pytest.skip(sentence)


@pytest.fixture
def wan(namespaces):
    """Two machines and no delay between them, which may be changed."""
    with Wan() as made:
        yield made


@pytest.fixture
def machine(tmp_path, wan):
    """lonc's files are in a directory of their own; lonc and lond are in the namespaces of `wan`."""
    made = WideMachine(tmp_path, wan)
    yield made
    made.end()
