"""What a person wants tried again. `metricwatch retry` leaves it here; the stage that acts on it takes it away."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from metricwatch.store.db import Database

# A job that gave no scores; the job of a step to score once more; what a sink or a receiver refused.
Kind = Literal["job", "revision", "delivery", "notification"]


class Retries:
    """Requests by kind and by the id of the row that they are about."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def request(self, kind: Kind, targets: Collection[int]) -> None:
        """Ask for these to be tried again. Asking twice is asking once."""
        with self._db.transaction("retry") as tx:
            tx.executemany(
                "INSERT INTO retries (kind, target) VALUES (?, ?) ON CONFLICT DO NOTHING",
                [(kind, target) for target in targets],
            )

    def requested(self, kind: Kind) -> list[int]:
        """What is to be tried again, in the order of its ids."""
        rows = self._db.read("SELECT target FROM retries WHERE kind = ? ORDER BY target", (kind,))
        return [row["target"] for row in rows]

    def done(self, kind: Kind, target: int) -> None:
        """Take a request away. Join the transaction that acts on it."""
        with self._db.transaction("retried") as tx:
            tx.execute("DELETE FROM retries WHERE kind = ? AND target = ?", (kind, target))
