import pytest
from support.pooled_host import Host


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def ready(host):
    """With one connection that is ready and idle."""
    host.pool.open()
    host.made[0].become_ready()
    return host
