"""The SQLite file: opening, migrating, and transactions that threads can share."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Self

from metricwatch import faults
from metricwatch.errors import LedgerError

FILE_NAME = "ledger.sqlite3"


def migrations() -> list[tuple[int, str]]:
    """All (version, SQL) pairs in order; the version is the number that starts the file's name."""
    found = []
    for entry in files("metricwatch.store").joinpath("migrations").iterdir():
        match = re.fullmatch(r"(\d{4})_\w+\.sql", entry.name)
        if match:
            found.append((int(match[1]), entry.read_text(encoding="utf-8")))
    return sorted(found)


class Database:
    """One connection, shared by the daemon's threads one transaction at a time.

    Every sqlite3.Error leaves as LedgerError naming the file. A transaction inside a transaction joins it.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()
        self._depth = 0

    @classmethod
    def open(cls, state: Path) -> Self:
        """Open or create the ledger in a state folder and bring its schema up to date."""
        path = state / FILE_NAME
        try:
            connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            # FULL, not NORMAL: a point sent to MLflow must not be forgotten by a power cut and sent anew.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error as error:
            raise LedgerError(f"{path}: cannot open the ledger: {error}") from error
        database = cls(connection, path)
        database._migrate()
        return database

    @classmethod
    def open_readonly(cls, state: Path) -> Self:
        """Open an existing ledger for reading beside a running daemon. Raises LedgerError when there is none."""
        path = state / FILE_NAME
        if not path.exists():
            raise LedgerError(f"{path}: no ledger yet; has `metricwatch run` been started with this configuration?")
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30, isolation_level=None
            )
            connection.row_factory = sqlite3.Row
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error as error:
            raise LedgerError(f"{path}: cannot read the ledger: {error}") from error
        return cls(connection, path)

    @contextmanager
    def transaction(self, name: str) -> Iterator[sqlite3.Connection]:
        """All or nothing, durable when it returns. name says what is committed; inside another, the outer's counts."""
        with self._lock:
            if self._depth:
                yield self._connection
                return
            self._depth += 1
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                except BaseException:
                    # On a full disk SQLite has rolled back by itself.
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
                faults.reached(f"{name}:uncommitted")
                self._connection.execute("COMMIT")
                faults.reached(f"{name}:committed")
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise LedgerError(f"{self.path}: {error}") from error
            finally:
                self._depth -= 1

    def read(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[sqlite3.Row]:
        """All rows of a query, at one moment."""
        with self._lock:
            try:
                return self._connection.execute(sql, parameters).fetchall()
            except sqlite3.Error as error:
                raise LedgerError(f"{self.path}: {error}") from error

    def read_one(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        rows = self.read(sql, parameters)
        return rows[0] if rows else None

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _migrate(self) -> None:
        current = int(self.read("PRAGMA user_version")[0][0])
        steps = migrations()
        newest = steps[-1][0]
        if current > newest:
            raise LedgerError(
                f"{self.path}: written by a newer metricwatch (schema {current}, this one knows {newest}); "
                "upgrade metricwatch or name another state folder"
            )
        for version, script in steps:
            if version <= current:
                continue
            try:
                self._connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {version};\nCOMMIT;")
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise LedgerError(f"{self.path}: migration {version:04d} failed: {error}") from error
