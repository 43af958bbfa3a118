"""`python -m lonc`: the command line, where `bin/lonc` is not on the path."""

import sys

from lonc.commands.cli import main

sys.exit(main())
