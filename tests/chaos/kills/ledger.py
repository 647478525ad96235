"""What the ledger says, read beside the daemon that owns it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the daemon has come.

    leased counts the jobs at work, crashes is the most that any job still open has. unjudged, unannounced, undelivered
    and unsent are what is left to do about the scores there are.
    """

    snapshots: int = 0
    open_jobs: int = 0
    leased: int = 0
    crashes: int = 0
    unjudged: int = 0
    unannounced: int = 0
    undelivered: int = 0
    unsent: int = 0

    @property
    def idle(self) -> bool:
        return not (self.open_jobs or self.unjudged or self.unannounced or self.undelivered or self.unsent)


# A rule bears the name of its metric.
_PROGRESS = """
  SELECT
    (SELECT count(*) FROM snapshots),
    (SELECT count(*) FROM jobs WHERE state IN ('queued', 'leased')),
    (SELECT count(*) FROM jobs WHERE state = 'leased'),
    (SELECT coalesce(max(crashes), 0) FROM jobs WHERE state IN ('queued', 'leased')),
    (SELECT count(*) FROM rule_marks
     WHERE up_to_score < (SELECT max(id) FROM scores WHERE scores.run = rule_marks.run AND scores.key = rule)),
    (SELECT count(*) FROM alerts WHERE announce AND id NOT IN (SELECT alert FROM routed_alerts))
      + (SELECT count(*) FROM alert_receivers JOIN alerts ON alerts.id = alert
         WHERE NOT closed AND announce AND (told = '' OR alerts.state = 'resolved')),
    (SELECT count(*) FROM deliveries WHERE state = 'pending'),
    (SELECT count(*) FROM notifications WHERE state = 'pending')
"""


class LedgerReader:
    """Opens the file for each look: a connection kept open would keep a killed daemon's write-ahead log alive."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def progress(self) -> Progress:
        """Where it stands; all zero while there is no ledger."""
        try:
            row = self.rows(_PROGRESS)[0]
        except sqlite3.OperationalError:
            # Not there, or in the middle of being made.
            return Progress()
        return Progress(**dict(zip(Progress.__slots__, row, strict=True)))

    def rows(self, sql: str, *parameters: object) -> list[Row]:
        with closing(sqlite3.connect(f"{self._file.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(sql, parameters).fetchall()
