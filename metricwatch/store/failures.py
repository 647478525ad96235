"""What failed for good, and could be tried again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metricwatch.store.db import Database
from metricwatch.store.retries import Kind

# Of a step that was rewritten since, the newest revision tells.
_JOBS = """
  SELECT jobs.id, snapshots.path FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot
  WHERE jobs.state IN ('failed', 'quarantined')
    AND snapshots.run IN (SELECT value FROM json_each(:runs))
    AND (:steps IS NULL OR snapshots.step IN (SELECT value FROM json_each(:steps)))
    AND NOT EXISTS (SELECT 1 FROM snapshots AS newer WHERE newer.source = snapshots.source
                      AND newer.step = snapshots.step AND newer.revision > snapshots.revision)
"""
_INCOMPLETE = """
  SELECT jobs.id, snapshots.path FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Ids by kind: jobs that gave no scores, done jobs with a failed metric, refused deliveries and messages.

    gone counts jobs that cannot be tried again, because what they were about is no longer on disk.
    """

    ids: Mapping[Kind, Sequence[int]]
    gone: int


def failures(db: Database, *, runs: Sequence[str], steps: Sequence[int] | None = None) -> Failures:
    """What failed of these runs and steps. Deliveries and messages belong to no single step: with steps none."""
    parameters = {"runs": json.dumps(list(runs)), "steps": None if steps is None else json.dumps(list(steps))}
    jobs, incomplete = db.read(_JOBS, parameters), db.read(_INCOMPLETE, parameters)
    deliveries = db.read(_DELIVERIES, parameters) if steps is None else []
    notifications = db.read(_NOTIFICATIONS, parameters) if steps is None else []
    here = {row["path"]: os.path.exists(row["path"]) for row in (*jobs, *incomplete)}
    return Failures(
        ids={
            "job": [row["id"] for row in jobs if here[row["path"]]],
            "revision": [row["id"] for row in incomplete if here[row["path"]]],
            "delivery": [row["id"] for row in deliveries],
            "notification": [row["id"] for row in notifications],
        },
        gone=sum(not here[row["path"]] for row in (*jobs, *incomplete)),
    )
