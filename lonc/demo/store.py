"""The database of the small lond: the data of its users, in SQLite."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from lonc.errors import CannotStart


class Store:
    """Values by (domain, user, namespace, key); all of them bytes.

    `database`: an SQLite file, or None to keep the data in memory. Raises CannotStart if it cannot be
    opened; the other methods raise sqlite3.Error. `place` is always [domain, user, namespace].
    """

    def __init__(self, database: Path | None) -> None:
        try:
            self._sqlite = sqlite3.connect(database or ":memory:", isolation_level=None)
            self._sqlite.execute(
                "CREATE TABLE IF NOT EXISTS item (domain BLOB, user BLOB, namespace BLOB, key BLOB,"
                " value BLOB, PRIMARY KEY (domain, user, namespace, key)) WITHOUT ROWID"
            )
        except sqlite3.Error as error:
            raise CannotStart(f"cannot use the database {database}: {error}") from error

    def close(self) -> None:
        """Close the database: since Python 3.13 an unclosed one is reported on standard error."""
        self._sqlite.close()

    def put(self, place: list[bytes], items: list[tuple[bytes, bytes]]) -> None:
        rows = [(*place, key, value) for key, value in items]
        with self._sqlite:
            self._sqlite.execute("BEGIN")
            self._sqlite.executemany("INSERT OR REPLACE INTO item VALUES (?, ?, ?, ?, ?)", rows)

    def get(self, place: list[bytes], key: bytes) -> bytes:
        """Return the value, or b"" if the key is missing."""
        row = self._sqlite.execute(
            "SELECT value FROM item WHERE domain = ? AND user = ? AND namespace = ? AND key = ?",
            (*place, key),
        ).fetchone()
        return b"" if row is None else bytes(row[0])

    def delete(self, place: list[bytes], keys: list[bytes]) -> None:
        with self._sqlite:
            self._sqlite.execute("BEGIN")
            self._sqlite.executemany(
                "DELETE FROM item WHERE domain = ? AND user = ? AND namespace = ? AND key = ?",
                [(*place, key) for key in keys],
            )

    def dump(self, place: list[bytes]) -> list[tuple[bytes, bytes]]:
        return self._sqlite.execute(
            "SELECT key, value FROM item WHERE domain = ? AND user = ? AND namespace = ?", place
        ).fetchall()
