"""The upkeep stage: backups, and an end for what nobody needs any more."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import structlog

from metricwatch.clock import Clock
from metricwatch.config.schema import Retention
from metricwatch.errors import LedgerDamagedError, LedgerError, LedgerUnavailableError
from metricwatch.store import backups
from metricwatch.store.db import Database
from metricwatch.store.housekeeping import Housekeeping
from metricwatch.upkeep.pictures import StrayMaterials, StrayPictures

log = structlog.get_logger(__name__)

# How long a silence is remembered that is over.
_SILENCES = timedelta(days=30)
_LOOK_SECONDS = 600.0


class Upkeep:
    """The only one that removes from the ledger. Copies it before it does, by SQLite's own online backup.

    It also removes the files of pictures, and what figures are drawn from, that a crash has left behind.
    """

    def __init__(self, db: Database, retention: Retention, runs: Collection[str], clock: Clock) -> None:
        """runs: the keys of those that the configuration names. They are kept, however old."""
        self._db = db
        self._store = Housekeeping(db)
        self._stray = (StrayPictures(db, clock), StrayMaterials(db, clock))
        self._retention = retention
        self._runs = runs
        self._clock = clock
        self._next_look = 0.0
        self._next_backup = 0.0

    def tick(self) -> int:
        """Back up and remove what is due; returns how many rows and files were removed. Each call does a small part."""
        if self._clock.monotonic() < self._next_look:
            return 0
        self._back_up()
        before = self._clock.now() - self._retention.deliveries
        removed = self._store.remove_deliveries(before=before) + self._store.remove_pictures(before=before)
        removed += self._store.remove_figures(before=before)
        removed += self._store.remove_silences(before=self._clock.now() - _SILENCES)
        removed += self._remove_runs()
        removed += sum(stray.remove() for stray in self._stray)
        if removed == 0:
            self._next_look = self._clock.monotonic() + _LOOK_SECONDS
            try:
                self._db.compact()
            except LedgerUnavailableError as error:
                # It takes room for a copy. Who only writes a row has enough.
                log.warning("ledger.not_compacted", reason=str(error), seconds=_LOOK_SECONDS)
        return removed

    def _back_up(self) -> None:
        now = self._clock.now()
        state = self._db.path.parent
        if self._retention.backups:
            last = self._store.backed_up_at()
            if last is not None and now - last < self._retention.backup_every:
                return
            if self._clock.monotonic() < self._next_backup:
                return
            self._next_backup = self._clock.monotonic() + _LOOK_SECONDS
            try:
                made = backups.make(self._db.path, now)
            except LedgerDamagedError:
                raise
            except LedgerError as error:
                log.error("ledger.not_backed_up", reason=str(error), seconds=_LOOK_SECONDS)
                return
            backups.prune(state, self._retention.backups)
            self._store.note_backup(now)
            log.info("ledger.backed_up", file=str(made), bytes=made.stat().st_size)
        backups.prune(state, self._retention.backups)

    def _remove_runs(self) -> int:
        before = self._clock.now() - self._retention.runs
        for run in self._store.idle_runs(before=before, other_than=self._runs):
            removed = self._store.remove_run(run)
            log.info("ledger.run_removed", run=run, rows=removed, idle=str(timedelta(days=self._retention.runs.days)))
            return removed
        return 0
