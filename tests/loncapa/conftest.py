import os

import pytest
from support.perl import WWW, Site


@pytest.fixture
def site(machine):
    """Perl on both ends of a lonc; everything runs as the user of the tests."""
    made = Site(machine)
    yield made
    made.close()


@pytest.fixture
def www(public):
    """Perl on both ends of a lonc; everything runs as one user without more rights, like LON-CAPA."""
    daemons = public.directory / "daemons"
    (daemons / "logs").mkdir()
    public.sockets.mkdir(mode=0o750)
    for path in (daemons, daemons / "logs", public.sockets):
        os.chown(path, WWW, WWW)
    made = Site(public, WWW)
    yield made
    made.close()
