"""A ledger that reads but cannot be written, as on a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from metricwatch.store.db import Database


@contextmanager
def unwritable(db: Database) -> Iterator[None]:
    """Until the end every write on this connection fails with one of SQLite's own errors, which may pass."""
    db.read("PRAGMA query_only = ON")
    try:
        yield
    finally:
        db.read("PRAGMA query_only = OFF")
