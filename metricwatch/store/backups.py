"""Copies of the ledger by SQLite's own online backup, beside it in the state folder."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import datetime
from pathlib import Path

from metricwatch import faults
from metricwatch.clock import to_ms
from metricwatch.errors import LedgerError

FOLDER = "backups"
LEDGER = "ledger.sqlite3"


def all_of(state: Path) -> list[Path]:
    """The backups in a state folder, oldest first."""
    return sorted((state / FOLDER).glob("ledger-*.sqlite3"))


def newest(state: Path) -> Path | None:
    return max(all_of(state), default=None)


def make(ledger: Path, now: datetime) -> Path:
    """Copy a ledger that is in use, and return the copy. Raises LedgerError; a copy is whole or not there."""
    target = ledger.parent / FOLDER / f"ledger-{now:%Y%m%dT%H%M%S}-{to_ms(now) % 1000:03d}.sqlite3"
    aside = target.with_suffix(".part")
    try:
        target.parent.mkdir(exist_ok=True)
        # Also what earlier ones left that were killed in the middle.
        for part in target.parent.glob("ledger-*.part*"):
            part.unlink(missing_ok=True)
        copy_to(ledger, aside)
        faults.reached("backup:unnamed")
        aside.rename(target)
    except (OSError, sqlite3.Error) as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise LedgerError(f"{target}: cannot back up the ledger: {error}") from error
    return target


def prune(state: Path, keep: int) -> int:
    """Remove all but the newest backups; returns how many."""
    surplus = all_of(state)[:-keep] if keep else all_of(state)
    for path in surplus:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return len(surplus)


def restore(state: Path, backup: Path, now: datetime) -> Path | None:
    """Put a backup in the ledger's place; returns where the old file went, None when there was none.

    The daemon's lock must be held. Raises LedgerError, with nothing changed, for what is no whole ledger.
    """
    ledger = state / LEDGER
    fresh = ledger.with_suffix(".restored")
    try:
        fresh.unlink(missing_ok=True)
        copy_to(backup, fresh)
        _check(fresh)
        old = ledger.with_name(f"{LEDGER}.damaged-{now:%Y%m%dT%H%M%S}")
        aside = old if ledger.exists() else None
        # Also where the ledger is gone: its write-ahead log would be played into the file that takes its name.
        for suffix in ("-wal", "-shm", ""):
            if (part := Path(f"{ledger}{suffix}")).exists():
                part.rename(f"{old}{suffix}")
        fresh.rename(ledger)
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(f"{backup}: cannot restore from it: {error}") from error
    return aside


def _check(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'deliveries'").fetchone()
    if verdict != "ok" or not tables:
        raise LedgerError(f"{path}: not a whole ledger of metricwatch ({verdict})")


def copy_to(source: Path, target: Path) -> None:
    """Copy one SQLite file to another, as it is at one moment, whatever others write meanwhile."""
    with (
        contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as reading,
        contextlib.closing(sqlite3.connect(target, timeout=30)) as writing,
    ):
        # In one step, which holds up no writer: in several it would begin anew with each write between them.
        reading.backup(writing)
        # As the copy is of a WAL file, reading it would leave -wal and -shm beside it.
        writing.execute("PRAGMA journal_mode = DELETE")
