"""Copies of the ledger by SQLite's own online backup, beside it in the state folder."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import datetime
from pathlib import Path

from metricwatch import faults
from metricwatch.clock import to_ms
from metricwatch.errors import LedgerDamagedError, LedgerError
from metricwatch.store import schema

FOLDER = "backups"
LEDGER = "ledger.sqlite3"
# SQLite's primary result codes for a file that is not what was written to it.
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def all_of(state: Path) -> list[Path]:
    """The backups in a state folder, oldest first."""
    return sorted((state / FOLDER).glob("ledger-*.sqlite3"))


def newest(state: Path) -> Path | None:
    return max(all_of(state), default=None)


def damaged(ledger: Path, what: str) -> LedgerDamagedError:
    """The error that says what is wrong with a ledger, and what to do about it."""
    made = newest(ledger.parent)
    anew = f"remove {ledger.parent} to begin anew: every snapshot that is on disk is then scored, and logged, once more"
    if made is None:
        advice = f"There is no backup; restore the file from your own and remove {LEDGER}-wal and -shm, or {anew}"
    else:
        advice = f"`metricwatch restore` puts the backup {made.name} in its place; or {anew}"
    return LedgerDamagedError(f"{ledger}: {what}. {advice}")


def make(ledger: Path, now: datetime) -> Path:
    """Copy a ledger that is in use, read the copy once, and return it. What is left of a failed try is no backup.

    Raises LedgerDamagedError when it is the ledger that is damaged, LedgerError for anything else.
    """
    target = ledger.parent / FOLDER / f"ledger-{now:%Y%m%dT%H%M%S}-{to_ms(now) % 1000:03d}.sqlite3"
    aside = target.with_suffix(".part")
    try:
        target.parent.mkdir(exist_ok=True)
        # Also what earlier ones left that were killed in the middle.
        for part in target.parent.glob("ledger-*.part*"):
            part.unlink(missing_ok=True)
        _copy(ledger, aside)
        # A copy of a damaged ledger would in time push out the good ones.
        if (verdict := _verdict(aside)) != "ok":
            if (fault := _verdict(ledger)) != "ok":
                raise damaged(ledger, f"the ledger is damaged: {fault}")
            raise LedgerError(f"{target}: cannot back up the ledger: its copy is damaged: {verdict}")
        faults.reached("backup:unnamed")
        aside.rename(target)
    except (OSError, sqlite3.Error) as error:
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
        if not backup.is_file():
            raise LedgerError(f"{backup}: cannot restore from it: no such file")
        for left in (fresh, Path(f"{fresh}-journal")):
            left.unlink(missing_ok=True)
        _copy(backup, fresh)
        _check(fresh, backup)
        old = ledger.with_name(f"{LEDGER}.replaced-{now:%Y%m%dT%H%M%S}")
        aside = old if ledger.exists() else None
        # Also where the ledger is gone: its write-ahead log would be played into the file that takes its name.
        for suffix in ("-wal", "-shm", ""):
            if (part := Path(f"{ledger}{suffix}")).exists():
                part.rename(f"{old}{suffix}")
        fresh.rename(ledger)
    except (OSError, sqlite3.Error) as error:
        raise LedgerError(f"{backup}: cannot restore from it: {error}") from error
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
    return aside


def _check(copy: Path, backup: Path) -> None:
    if (verdict := _verdict(copy)) != "ok":
        raise LedgerError(f"{backup}: cannot restore from it: it is damaged: {verdict}")
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'deliveries'").fetchone()
    if not tables:
        raise LedgerError(f"{backup}: cannot restore from it: not a ledger of metricwatch")
    if version > schema.newest():
        raise LedgerError(f"{backup}: cannot restore from it: a newer metricwatch has written it; upgrade metricwatch")


def _verdict(path: Path) -> str:
    """The first thing that is wrong with an SQLite file, its indexes included; "ok" where nothing is."""
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        try:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in DAMAGED:
                raise
            return str(error)
    return " ".join(str(verdict).split())


def _copy(source: Path, target: Path) -> None:
    """Copy one SQLite file to another, as it is at one moment, whatever others write meanwhile."""
    with (
        contextlib.closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as reading,
        contextlib.closing(sqlite3.connect(target, timeout=30)) as writing,
    ):
        # In one step, which holds up no writer: in several it would begin anew with each write between them.
        reading.backup(writing)
        # As the copy is of a WAL file, reading it would leave -wal and -shm beside it.
        writing.execute("PRAGMA journal_mode = DELETE")
