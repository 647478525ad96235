"""What the outboxes have in common: tables of rows that wait for a sink, and what people are told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal

from metricwatch.clock import from_ms
from metricwatch.store.db import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Rows waiting for one sink and run, since when the oldest does, and what the sink last said to it."""

    sink: str
    run: str
    pending: int
    oldest: datetime
    reason: str


class Outbox:
    """A table with sink, run, identity, state, reason and created_ms, and an index <table>_rejected."""

    table: ClassVar[Literal["deliveries", "pictures"]]

    def __init__(self, db: Database) -> None:
        self._db = db

    def backlog(self) -> list[Backlog]:
        """What is still pending, by sink and run, oldest first."""
        rows = self._db.read(
            f"""SELECT head.sink, head.run, pending, head.created_ms AS oldest, head.reason
                FROM (SELECT min(id) AS first, count(*) AS pending FROM {self.table}
                      WHERE state = 'pending' GROUP BY sink, run)
                CROSS JOIN {self.table} AS head ON head.id = first ORDER BY oldest"""  # noqa: S608 - our own table
        )
        return [
            Backlog(
                sink=row["sink"],
                run=row["run"],
                pending=row["pending"],
                oldest=from_ms(row["oldest"]),
                reason=row["reason"],
            )
            for row in rows
        ]

    def pending(self) -> int:
        """How many rows wait."""
        row = self._db.read_one(
            f"SELECT count(*) AS n FROM {self.table} WHERE state = 'pending'"  # noqa: S608 - our own table
        )
        return int(row["n"]) if row else 0

    def rejections(self) -> int:
        """How many rows were rejected, of those that the ledger still knows."""
        return sum(count for count, _ in self.rejections_by_sink().values())

    def rejections_by_sink(self) -> dict[str, tuple[int, str]]:
        """How many rows each sink has rejected, and why it rejected the newest of them."""
        rows = self._db.read(
            f"""SELECT sink, count(*) AS n, max(id), reason FROM {self.table} INDEXED BY {self.table}_rejected
                WHERE state = 'rejected' GROUP BY sink"""  # noqa: S608 - our own table
        )
        return {row["sink"]: (row["n"], row["reason"]) for row in rows}

    def rejected(self, limit: int = 20) -> Sequence[tuple[str, str, str]]:
        """The newest rejected rows: (run, identity, reason)."""
        rows = self._db.read(
            f"""SELECT run, identity, reason FROM {self.table} WHERE state = 'rejected'
                ORDER BY id DESC LIMIT ?""",  # noqa: S608 - our own table
            (limit,),
        )
        return [(row["run"], row["identity"], row["reason"]) for row in rows]
