"""The ledger's schema: SQL files, applied in order, each in a transaction of its own."""

from __future__ import annotations

import re
import sqlite3
from functools import cache
from importlib.resources import files
from pathlib import Path

from metricwatch.errors import LedgerError


@cache
def migrations() -> tuple[tuple[int, str], ...]:
    """All (version, SQL) pairs in order; the version is the number that starts the file's name."""
    found = []
    for entry in files("metricwatch.store").joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_\w+\.sql", entry.name)
        if match:
            found.append((int(match[1]), entry.read_text(encoding="utf-8")))
    return tuple(sorted(found))


def newest() -> int:
    """The version that this program writes."""
    return migrations()[-1][0]


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a ledger up to date. Raises LedgerError for one that a newer metricwatch has written."""
    (current,) = connection.execute("PRAGMA user_version").fetchone()
    if current > newest():
        raise LedgerError(
            f"{path}: written by a newer metricwatch (schema {current}, this one knows {newest()}); "
            "upgrade metricwatch or name another state folder"
        )
    if current == newest():
        return
    # A table is rebuilt by a new one that takes its name: meanwhile what refers to it refers to nothing.
    connection.execute("PRAGMA foreign_keys = OFF")
    try:
        for version, script in migrations():
            if version > current:
                _apply(connection, path, version, script)
    finally:
        connection.execute("PRAGMA foreign_keys = ON")


def _apply(connection: sqlite3.Connection, path: Path, version: int, script: str) -> None:
    try:
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {version};")
        dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
        if dangling:
            tables = ", ".join(sorted({row[0] for row in dangling}))
            raise LedgerError(
                f"{path}: migration {version:04d} failed: {len(dangling)} rows refer to what is not there ({tables}); "
                "nothing was changed; `metricwatch restore` puts a backup in place"
            )
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise LedgerError(f"{path}: migration {version:04d} failed: {error}") from error
    finally:
        # PRAGMA foreign_keys does nothing inside a transaction.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
