"""What may leave the ledger: points and pictures that arrived long ago, and runs that nobody watches any more."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime

from metricwatch.clock import from_ms, to_ms
from metricwatch.store.db import Database

# Short transactions: the stages that score and deliver wait for each of them.
_AT_ONCE = 1000

# A message may be about alerts of several runs.
_ABOUT_NOTHING = "NOT EXISTS (SELECT 1 FROM notification_alerts WHERE notification = notifications.id)"

# Children before their parents.
_OF_A_RUN = (
    "DELETE FROM notification_alerts WHERE alert IN (SELECT id FROM alerts WHERE run = :run)",
    # Before the messages that they stand in for.
    f"DELETE FROM notifications WHERE instead_of IS NOT NULL AND {_ABOUT_NOTHING}",  # noqa: S608 - constants
    f"DELETE FROM notifications WHERE {_ABOUT_NOTHING}",  # noqa: S608 - constants
    "DELETE FROM alert_receivers WHERE alert IN (SELECT id FROM alerts WHERE run = :run)",
    "DELETE FROM routed_alerts WHERE alert IN (SELECT id FROM alerts WHERE run = :run)",
    "DELETE FROM alerts WHERE run = :run",
    "DELETE FROM rule_states WHERE run = :run",
    "DELETE FROM rule_marks WHERE run = :run",
    "DELETE FROM pages WHERE run = :run",
    "DELETE FROM remote_runs WHERE run = :run",
    "DELETE FROM deliveries WHERE run = :run",
    "DELETE FROM pictures WHERE run = :run",
    "DELETE FROM figures WHERE run = :run",
    "DELETE FROM scores WHERE run = :run",
    "DELETE FROM evaluations WHERE run = :run",
    "DELETE FROM jobs WHERE snapshot IN (SELECT id FROM snapshots WHERE run = :run)",
    "DELETE FROM snapshots WHERE run = :run",
    "DELETE FROM runs WHERE key = :run",
)


class Housekeeping:
    """Written by upkeep alone."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def remove_deliveries(self, *, before: datetime) -> int:
        """Remove some of the deliveries that arrived before then; returns how many."""
        with self._db.transaction("old-deliveries") as tx:
            return tx.execute(
                """DELETE FROM deliveries WHERE id IN
                     (SELECT id FROM deliveries WHERE state = 'sent' AND sent_ms < ? LIMIT ?)""",
                (to_ms(before), _AT_ONCE),
            ).rowcount

    def remove_pictures(self, *, before: datetime) -> int:
        """Remove some of the rows of pictures that arrived, or were rejected, before then; returns how many.

        A rejected picture has no file any more with which it could be tried again.
        """
        with self._db.transaction("old-pictures") as tx:
            return sum(
                tx.execute(sql, (to_ms(before), _AT_ONCE)).rowcount
                for sql in (
                    """DELETE FROM pictures WHERE id IN
                         (SELECT id FROM pictures WHERE state = 'sent' AND sent_ms < ? LIMIT ?)""",
                    """DELETE FROM pictures WHERE id IN
                         (SELECT id FROM pictures INDEXED BY pictures_rejected
                          WHERE state = 'rejected' AND created_ms < ? LIMIT ?)""",
                )
            )

    def remove_figures(self, *, before: datetime) -> int:
        """Remove some of the rows of figures that were drawn, or given up, before then; returns how many."""
        with self._db.transaction("old-figures") as tx:
            return sum(
                tx.execute(sql, (to_ms(before), _AT_ONCE)).rowcount
                for sql in (
                    """DELETE FROM figures WHERE id IN
                         (SELECT id FROM figures WHERE state = 'drawn' AND drawn_ms < ? LIMIT ?)""",
                    """DELETE FROM figures WHERE id IN
                         (SELECT id FROM figures INDEXED BY figures_failed
                          WHERE state = 'failed' AND created_ms < ? LIMIT ?)""",
                )
            )

    def remove_silences(self, *, before: datetime) -> int:
        """Remove the silences that were over before then; returns how many."""
        with self._db.transaction("old-silences") as tx:
            return tx.execute("DELETE FROM silences WHERE ends_ms < ?", (to_ms(before),)).rowcount

    def open_jobs(self) -> set[int]:
        """The jobs that are queued or at work."""
        return {row["id"] for row in self._db.read("SELECT id FROM jobs WHERE state IN ('queued', 'leased')")}

    def idle_runs(self, *, before: datetime, other_than: Collection[str]) -> list[str]:
        """The runs not among these to which nothing has happened since then, and of which no point or message waits.

        Pictures that wait, drawn or not, do not keep a run: their files would fill the disk for an artifact store that
        is no more.
        """
        rows = self._db.read(
            """SELECT key FROM runs WHERE created_ms < :before
                 AND key NOT IN (SELECT value FROM json_each(:kept))
                 AND NOT EXISTS (SELECT 1 FROM snapshots WHERE run = key AND settled_ms >= :before)
                 AND NOT EXISTS (SELECT 1 FROM evaluations WHERE run = key AND evaluated_ms >= :before)
                 AND NOT EXISTS (SELECT 1 FROM deliveries WHERE run = key AND state = 'pending')
                 AND NOT EXISTS (SELECT 1 FROM alerts JOIN notification_alerts AS told ON told.alert = alerts.id
                                   JOIN notifications AS n ON n.id = told.notification
                                 WHERE run = key AND n.state = 'pending')""",
            {"before": to_ms(before), "kept": json.dumps(sorted(other_than))},
        )
        return [row["key"] for row in rows]

    def remove_run(self, run: str) -> int:
        """Forget a run with everything about it; returns how many rows that were."""
        with self._db.transaction("old-run") as tx:
            return sum(tx.execute(sql, {"run": run}).rowcount for sql in _OF_A_RUN)

    def backed_up_at(self) -> datetime | None:
        row = self._db.read_one("SELECT done_ms FROM upkeep WHERE task = 'backup'")
        return from_ms(row["done_ms"]) if row else None

    def note_backup(self, now: datetime) -> None:
        with self._db.transaction("backup") as tx:
            tx.execute("INSERT OR REPLACE INTO upkeep (task, done_ms) VALUES ('backup', ?)", (to_ms(now),))
