"""`python -m lonc`: the same command line as `lonc`."""

import sys

from lonc.commands.cli import main

sys.exit(main())
