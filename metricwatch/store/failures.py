"""What failed for good, and could be tried again."""

from __future__ import annotations

import json
from collections.abc import Sequence

from metricwatch.store.db import Database
from metricwatch.store.retries import Kind

# Of a step that was rewritten since, the newest revision tells.
_JOBS = """
  SELECT jobs.id FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot
  WHERE jobs.state IN ('failed', 'quarantined')
    AND snapshots.run IN (SELECT value FROM json_each(:runs))
    AND (:steps IS NULL OR snapshots.step IN (SELECT value FROM json_each(:steps)))
    AND NOT EXISTS (SELECT 1 FROM snapshots AS newer WHERE newer.source = snapshots.source
                      AND newer.step = snapshots.step AND newer.revision > snapshots.revision)
"""
_INCOMPLETE = """
  SELECT jobs.id FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot
    JOIN evaluations ON evaluations.job = jobs.id
  WHERE snapshots.run IN (SELECT value FROM json_each(:runs))
    AND (:steps IS NULL OR snapshots.step IN (SELECT value FROM json_each(:steps)))
    AND EXISTS (SELECT 1 FROM scores WHERE scores.evaluation = evaluations.id AND scores.state = 'failed')
    AND NOT EXISTS (SELECT 1 FROM snapshots AS newer WHERE newer.source = snapshots.source
                      AND newer.step = snapshots.step AND newer.revision > snapshots.revision)
"""
_DELIVERIES = """
  SELECT id FROM deliveries WHERE state = 'rejected' AND run IN (SELECT value FROM json_each(:runs))
"""
_NOTIFICATIONS = """
  SELECT n.id FROM notifications AS n JOIN alerts ON alerts.id = n.alert
  WHERE n.state = 'failed' AND run IN (SELECT value FROM json_each(:runs))
"""


def failures(db: Database, *, runs: Sequence[str], steps: Sequence[int] | None = None) -> dict[Kind, list[int]]:
    """Ids by kind: jobs that gave no scores, done jobs with a failed metric, refused deliveries and messages.

    Of these runs, and of these steps. Deliveries and messages belong to no single step: with steps there are none.
    """
    parameters = {"runs": json.dumps(list(runs)), "steps": None if steps is None else json.dumps(list(steps))}

    def ids(sql: str) -> list[int]:
        return [row["id"] for row in db.read(sql, parameters)]

    return {
        "job": ids(_JOBS),
        "revision": ids(_INCOMPLETE),
        "delivery": ids(_DELIVERIES) if steps is None else [],
        "notification": ids(_NOTIFICATIONS) if steps is None else [],
    }
