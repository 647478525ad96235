"""An evaluation as one of its scores leads to it: the scores beside that one, and the files it was made of."""

from __future__ import annotations

import json
import os

from metricwatch.records import Score
from metricwatch.store.db import Database
from metricwatch.store.scores import point_of


class Evaluated:
    """Reads the ledger."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def scores_beside(self, score: int) -> dict[str, Score]:
        """All scores of the evaluation that the score of this id is from, by key."""
        rows = self._db.read(
            "SELECT * FROM scores WHERE evaluation = (SELECT evaluation FROM scores WHERE id = ?)", (score,)
        )
        return {row["key"]: point_of(row).score for row in rows}

    def source_of(self, score: int) -> tuple[str, str] | None:
        """The watch entry of the files that the score of this id is of, and their path: the file where it is one."""
        row = self._db.read_one(
            """SELECT snapshots.source, path, members FROM scores JOIN evaluations ON evaluations.id = scores.evaluation
                 JOIN jobs ON jobs.id = evaluations.job JOIN snapshots ON snapshots.id = jobs.snapshot
               WHERE scores.id = ?""",
            (score,),
        )
        if row is None:
            return None
        members = json.loads(row["members"]) if row["members"] else []
        return row["source"], os.path.join(row["path"], members[0]) if len(members) == 1 else row["path"]
