"""Which training jobs have finished well, as far as their sinks say."""

from __future__ import annotations

from datetime import datetime

from metricwatch.clock import to_ms
from metricwatch.store.db import Database


class Endings:
    """remote_runs.ended_ms, written by export alone: NULL while a job may go on."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def known(self, sink: str) -> list[tuple[str, str, bool]]:
        """The runs that a sink knows and for which nothing waits: our key, its id, and whether it is over."""
        rows = self._db.read(
            """SELECT run, id, ended_ms FROM remote_runs WHERE sink = :sink AND NOT EXISTS (
                 SELECT 1 FROM deliveries WHERE sink = :sink AND run = remote_runs.run AND state = 'pending')
               ORDER BY run""",
            {"sink": sink},
        )
        return [(row["run"], row["id"], row["ended_ms"] is not None) for row in rows]

    def note(self, sink: str, run: str, *, ended: datetime | None) -> None:
        """It is over since that moment at the latest, or goes on."""
        with self._db.transaction("run-ended") as tx:
            tx.execute(
                "UPDATE remote_runs SET ended_ms = ? WHERE sink = ? AND run = ?",
                (None if ended is None else to_ms(ended), sink, run),
            )
