"""The SQLite file: opening, and transactions that threads can share."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Self

from metricwatch import faults
from metricwatch.clock import from_ms, to_ms
from metricwatch.errors import LedgerError, LedgerUnavailableError
from metricwatch.store import backups, schema

FILE_NAME = backups.LEDGER

# SQLite's primary result codes, see sqlite.org/rescode.html.
_UNAVAILABLE = frozenset(
    {
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM),
    }
)
_BUSY_SECONDS = 30
# The smallest page of an SQLite file.
_SECTOR = 512
# A file is written anew when so many of its pages are empty (of 4 kB), and such a part of them.
_MOST_FREE_PAGES = 1000
_MOST_FREE = 0.25

_TIMES = (
    ("runs", "created_ms"),
    ("snapshots", "settled_ms"),
    ("evaluations", "evaluated_ms"),
    ("deliveries", "created_ms"),
    ("pictures", "created_ms"),
    ("figures", "created_ms"),
    ("alerts", "fired_ms"),
    ("alerts", "resolved_ms"),
    ("notifications", "created_ms"),
    ("upkeep", "done_ms"),
)


class Database:
    """One connection, shared by the daemon's threads one transaction at a time.

    Every sqlite3.Error leaves as LedgerError naming the file: LedgerUnavailableError when the same may work later,
    LedgerDamagedError when it will not. A transaction inside a transaction joins it.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._inode = path.stat().st_ino
        self._connection = connection
        self._lock = threading.RLock()
        self._depth = 0

    @classmethod
    def open(cls, state: Path) -> Self:
        """Open the ledger in a state folder, check it, and bring its schema up to date; create one where none was.

        Raises LedgerDamagedError for a file that is damaged, cut short or gone while its backups are here: a new
        ledger in its place would score, and log, everything a second time.
        """
        path = state / FILE_NAME
        if not path.exists():
            _create(path)
        _require(path)
        database = cls(_connect(path), path)
        try:
            database._check()
            with database._errors():
                schema.migrate(database._connection, path)
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def open_beside(cls, state: Path) -> Self:
        """Open the ledger of a daemon that may be running, to leave a request in it. It must have this schema."""
        path = state / FILE_NAME
        _require(path)
        database = cls(_connect(path), path)
        version = int(database.read("PRAGMA user_version")[0][0])
        if version != schema.newest():
            database.close()
            raise LedgerError(
                f"{path}: its schema is {version}, this metricwatch has {schema.newest()}: use the daemon's own version"
                " or restart the daemon with this one"
            )
        return database

    @classmethod
    def open_readonly(cls, state: Path) -> Self:
        """Open an existing ledger for reading beside a running daemon. Raises LedgerError when there is none."""
        path = state / FILE_NAME
        _require(path)
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS, isolation_level=None
            )
            connection.row_factory = sqlite3.Row
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in backups.DAMAGED:
                raise backups.damaged(path, f"the ledger is damaged: {error}") from error
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
                with self._errors():
                    self._connection.execute("BEGIN IMMEDIATE")
                    yield self._connection
                    faults.reached(f"{name}:uncommitted")
                    self._connection.execute("COMMIT")
                    faults.reached(f"{name}:committed")
            finally:
                self._depth -= 1
                # On a full disk SQLite may have rolled back by itself.
                if self._connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")

    def read(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[sqlite3.Row]:
        """All rows of a query, at one moment."""
        with self._lock, self._errors():
            return self._connection.execute(sql, parameters).fetchall()

    def has(self, table: str) -> bool:
        """True when there is such a table: a ledger that is only looked at may be of an older schema."""
        return bool(self.read("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)))

    def read_one(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        rows = self.read(sql, parameters)
        return rows[0] if rows else None

    def check_there(self) -> None:
        """Raise LedgerDamagedError when the file was removed, replaced or cut: what we write would be lost."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            status = None
        except OSError as error:
            raise LedgerUnavailableError(f"{self.path}: {error.strerror}") from error
        if status is None or status.st_ino != self._inode:
            raise backups.damaged(self.path, "the ledger was removed or replaced while the daemon ran; it stops here")
        if status.st_size == 0 or status.st_size % _SECTOR:
            raise backups.damaged(
                self.path, f"the ledger was cut short to {status.st_size} bytes; the daemon stops here"
            )

    def compact(self) -> None:
        """Give back to the disk what removed rows took, where that is much, and fold the write-ahead log in."""
        with self._lock, self._errors():
            (pages,), (free,) = (
                self._connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count")
            )
            if free > _MOST_FREE_PAGES and free > pages * _MOST_FREE:
                self._connection.execute("VACUUM")
            self._connection.execute("PRAGMA optimize")
            # Somebody who reads keeps the log from being cut: next time, then. Everything else waits for this lock.
            self._connection.execute("PRAGMA busy_timeout = 0")
            try:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")

    def newest_time(self) -> datetime:
        """The newest moment that anything was recorded at; 1970 for a ledger in which nothing is."""
        newest = " UNION ALL ".join(f"SELECT max({column}) FROM {table}" for table, column in _TIMES)  # noqa: S608
        rows = self.read(newest)
        return from_ms(max(row[0] or 0 for row in rows))

    def cap_waits(self, until: datetime) -> None:
        """Let nothing wait for longer: a clock that was ahead may have set a wait's end years from now."""
        with self.transaction("waits") as tx:
            waiting = {"jobs": "queued"}
            waiting |= dict.fromkeys(("deliveries", "pictures", "figures", "notifications"), "pending")
            for table, state in waiting.items():
                tx.execute(
                    f"UPDATE {table} SET not_before_ms = :until WHERE state = '{state}' AND not_before_ms > :until",  # noqa: S608 - constants
                    {"until": to_ms(until)},
                )

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _check(self) -> None:
        """Read every page once: better told at the start than at night."""
        (first,) = self.read("PRAGMA quick_check(1)")
        if first[0] != "ok":
            raise backups.damaged(self.path, f"the ledger is damaged: {' '.join(first[0].split())}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # The low byte is the primary code. Misuse of the module has none.
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in backups.DAMAGED:
                raise backups.damaged(self.path, f"the ledger is damaged: {error}") from error
            kind = LedgerUnavailableError if code in _UNAVAILABLE else LedgerError
            raise kind(f"{self.path}: {error}") from error


def _require(path: Path) -> None:
    """Raise LedgerError unless there is a ledger with something in it."""
    if not path.exists():
        _require_no_trace(path)
        raise LedgerError(f"{path}: no ledger yet; has `metricwatch run` been started with this configuration?")
    if path.stat().st_size == 0:
        raise backups.damaged(path, "the ledger is empty (0 bytes): its content was lost")


def _require_no_trace(path: Path) -> None:
    """Raise LedgerDamagedError where a ledger has been that is gone."""
    if backups.newest(path.parent) is not None:
        raise backups.damaged(path, "the ledger is gone, and its backups are here")
    if Path(f"{path}-wal").exists():
        # It would be played into a new file of that name.
        raise backups.damaged(path, "the ledger is gone, and its write-ahead log is here")


def _create(path: Path) -> None:
    """Make a new ledger aside and rename it: a file of this name is never one that was not begun properly."""
    _require_no_trace(path)
    aside = path.with_suffix(".new")
    try:
        # With the journal of one that was killed in the middle, which would be played into this one.
        for left in (aside, Path(f"{aside}-journal")):
            left.unlink(missing_ok=True)
        connection = sqlite3.connect(aside, isolation_level=None)
        try:
            schema.migrate(connection, aside)
        finally:
            connection.close()
        faults.reached("ledger:unnamed")
        aside.rename(path)
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"{path}: cannot create the ledger: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL, not NORMAL: a point sent to MLflow must not be forgotten by a power cut and sent anew.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in backups.DAMAGED:
            raise backups.damaged(path, f"the ledger is damaged: {error}") from error
        raise LedgerError(f"{path}: cannot open the ledger: {error}") from error
    return connection
