"""Records the imports of a process.

This module imports only `os` and `sys`, as its own imports are not recorded.
"""

import os
import sys


def record_imports(file):
    """Append the name of each module that is imported while the user is not root to that file."""

    def note(event, arguments):
        if event == "import" and os.getuid() != 0:
            with open(file, "a") as record:
                record.write(f"{arguments[0]}\n")

    sys.addaudithook(note)


def print_when_the_library_of_keys_is_imported(key_file):
    """Print whether the library is imported: one line without a key file, one with it."""
    import lonc.child.child
    import lonc.commands.cli
    import lonc.lonnet  # noqa: F401
    from lonc.spool.sealing import require_keys

    for file in (None, key_file):
        require_keys(file)
        print("Crypto" in sys.modules)
