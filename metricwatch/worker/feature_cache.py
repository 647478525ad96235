"""Rows of numbers by content, kept on disk up to a size: what was computed once for a picture need not be again."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from metricwatch import faults
from metricwatch.worker.log import LogLine

Row = npt.NDArray[np.float32] | npt.NDArray[np.float64]

FILE_NAME = "features.sqlite3"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
  key  BLOB PRIMARY KEY,
  used INTEGER NOT NULL,  -- seconds since 1970
  kind TEXT NOT NULL,     -- numpy's name for the numbers
  crc  INTEGER NOT NULL,
  data BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS rows_by_use ON rows (used);
"""
_KINDS = {"<f4", "<f8"}
# Below SQLite's limit of variables in a statement, in its oldest form.
_AT_ONCE = 500
# A row's time of use is written anew after this long only: it serves to find what nobody has asked for in weeks.
_USE_GRAIN_SECONDS = 3600
_SLACK = 0.9
# Another process that holds the file for so long is not waited for again at each batch.
_BUSY_SECONDS = 120.0


class FeatureCache:
    """A size-capped store of rows in one SQLite file, least recently used out first. Safe from several threads.

    Losing it costs time only. A damaged row counts as absent, a damaged file is set aside and begun anew, and when
    the disk does not take any more that is said once and work goes on. A capacity of 0 keeps nothing. Several
    processes may share the file; one that finds it busy for long goes on without it.
    """

    def __init__(self, directory: str, capacity: int, log: LogLine, now: Callable[[], float] = time.time) -> None:
        self._path = os.path.join(directory, FILE_NAME)
        self._capacity = capacity
        self._log = log
        self._now = now
        self._lock = threading.Lock()
        self._touched: set[bytes] = set()
        self._refused = not directory or capacity <= 0
        self._begun_anew = False
        self._not_before = 0.0
        self._db: sqlite3.Connection | None = None

    def load(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows known by these keys."""
        with self._lock:
            return self._guarded(lambda db: self._load(db, keys)) or {}

    def save(self, rows: Mapping[bytes, Row]) -> None:
        """Keep rows, each 1-D of float32 or float64. Returns when they would survive the process."""
        if rows:
            with self._lock:
                self._guarded(lambda db: self._save(db, rows))

    def note_use(self) -> None:
        """Write down which rows were asked for, so that they stay the longest. Once an evaluation is often enough."""
        with self._lock:
            if self._touched:
                self._guarded(self._touch)

    def _guarded(self, action: Callable[[sqlite3.Connection], object]) -> dict[bytes, Row] | None:
        """Run an action on the open file; None where the file does not play along."""
        if self._refused or self._now() < self._not_before:
            return None
        try:
            if self._db is None:
                self._db = self._open()
            result = action(self._db)
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                self._not_before = self._now() + _BUSY_SECONDS
                self._log("warning", "the kept features are held by another process: going on without", path=self._path)
            else:
                self._refuse(str(error))
        except sqlite3.DatabaseError as error:
            self._set_aside(str(error))
        except OSError as error:
            self._refuse(str(error))
        else:
            return result if isinstance(result, dict) else None
        return None

    def _open(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        db = sqlite3.connect(self._path, timeout=5.0, isolation_level=None, check_same_thread=False)
        try:
            # Before the first table, or it has no effect.
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_SCHEMA)
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _load(self, db: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Row]:
        found: dict[bytes, Row] = {}
        stale = int(self._now()) - _USE_GRAIN_SECONDS
        for start in range(0, len(keys), _AT_ONCE):
            some = keys[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, used, kind, crc, data FROM rows WHERE key IN ({marks})"  # noqa: S608 - question marks
            for key, used, kind, crc, data in db.execute(query, some):
                if kind not in _KINDS or _crc(key, kind, data) != crc:
                    continue
                found[key] = np.frombuffer(data, dtype=kind)
                if used < stale:
                    self._touched.add(key)
        return found

    def _save(self, db: sqlite3.Connection, rows: Mapping[bytes, Row]) -> None:
        used = int(self._now())
        db.execute("BEGIN IMMEDIATE")
        try:
            for key, row in rows.items():
                kind = "<f8" if row.dtype == np.float64 else "<f4"
                data = np.ascontiguousarray(row, dtype=kind).tobytes()
                db.execute(
                    "INSERT OR REPLACE INTO rows (key, used, kind, crc, data) VALUES (?, ?, ?, ?, ?)",
                    (key, used, kind, _crc(key, kind, data), data),
                )
            evicted = self._evict(db)
            faults.reached("features:uncommitted")
            db.execute("COMMIT")
            faults.reached("features:committed")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        if evicted:
            # Gives the pages back to the disk.
            db.execute("PRAGMA incremental_vacuum").fetchall()

    def _evict(self, db: sqlite3.Connection) -> bool:
        if _bytes(db) <= self._capacity:
            return False
        (rows,) = db.execute("SELECT count(*) FROM rows").fetchone()
        while rows and (taken := _bytes(db)) > _SLACK * self._capacity:
            surplus = 1 + int(rows * (taken - _SLACK * self._capacity) / taken)
            oldest = "SELECT rowid FROM rows ORDER BY used, rowid LIMIT ?"
            rows -= db.execute(f"DELETE FROM rows WHERE rowid IN ({oldest})", (surplus,)).rowcount  # noqa: S608 - a constant
        return True

    def _touch(self, db: sqlite3.Connection) -> None:
        used = int(self._now())
        db.execute("BEGIN IMMEDIATE")
        db.executemany("UPDATE rows SET used = ? WHERE key = ?", [(used, key) for key in self._touched])
        db.execute("COMMIT")
        self._touched.clear()

    def _refuse(self, reason: str) -> None:
        self._refused = True
        self._log(
            "warning",
            "features cannot be kept: what is scored again is computed again",
            path=self._path,
            error=reason,
        )
        self._drop()

    def _set_aside(self, reason: str) -> None:
        """Begin anew beside a damaged file, once in a process: the second time the disk is what is wrong."""
        self._drop()
        if self._begun_anew:
            self._refuse(reason)
            return
        self._begun_anew = True
        aside = f"{self._path}.damaged"
        try:
            os.replace(self._path, aside)
            for suffix in ("-wal", "-shm"):
                _remove(self._path + suffix)
            self._db = self._open()
        except (OSError, sqlite3.Error):
            self._refuse(reason)
            return
        self._log("warning", "the kept features were damaged: begun anew", path=self._path, aside=aside, error=reason)

    def _drop(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _crc(key: bytes, kind: str, data: bytes) -> int:
    """Over all of a row: with the wrong bit of an index a file gives one row's numbers under another's key."""
    return zlib.crc32(data, zlib.crc32(key + kind.encode()))


def _remove(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)


def _bytes(db: sqlite3.Connection) -> int:
    """What the file takes on the disk, or could be cut to."""
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    (free,) = db.execute("PRAGMA freelist_count").fetchone()
    (size,) = db.execute("PRAGMA page_size").fetchone()
    return int(pages - free) * int(size)
