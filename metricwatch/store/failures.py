"""What failed for good or was skipped, and could be tried again."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metricwatch.store.db import Database
from metricwatch.store.retries import Kind

# Of a step that was rewritten since, the newest revision tells.
_JOBS = """
  SELECT jobs.id, snapshots.path, snapshots.members FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot
  WHERE jobs.state IN (SELECT value FROM json_each(:states))
    AND snapshots.run IN (SELECT value FROM json_each(:runs))
    AND (:steps IS NULL OR snapshots.step IN (SELECT value FROM json_each(:steps)))
    AND NOT EXISTS (SELECT 1 FROM snapshots AS newer WHERE newer.source = snapshots.source
                      AND newer.step = snapshots.step AND newer.revision > snapshots.revision)
"""
_INCOMPLETE = """
  SELECT jobs.id, snapshots.path, snapshots.members FROM jobs JOIN snapshots ON snapshots.id = jobs.snapshot
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
  SELECT DISTINCT n.id FROM notifications AS n JOIN notification_alerts AS told ON told.notification = n.id
    JOIN alerts ON alerts.id = told.alert
  WHERE n.state = 'failed' AND run IN (SELECT value FROM json_each(:runs)) ORDER BY n.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Ids by kind: jobs that gave no scores, done jobs with a failed metric, refused deliveries and messages.

    gone counts jobs that cannot be tried again, because what they were about is no longer on disk. left counts those
    that were skipped, could be scored, and were not asked for.
    """

    ids: Mapping[Kind, Sequence[int]]
    gone: int
    left: int


def failures(
    db: Database, *, runs: Sequence[str], steps: Sequence[int] | None = None, skipped: bool = False
) -> Failures:
    """What failed of these runs and steps. Deliveries and messages belong to no single step: with steps none.

    Jobs that were skipped are no failures: they are among them with `skipped`, or where steps are named.
    """
    parameters = {"runs": json.dumps(list(runs)), "steps": None if steps is None else json.dumps(list(steps))}
    failed = db.read(_JOBS, {**parameters, "states": '["failed", "quarantined"]'})
    passed_over = db.read(_JOBS, {**parameters, "states": '["skipped"]'})
    incomplete = db.read(_INCOMPLETE, parameters)
    deliveries = db.read(_DELIVERIES, parameters) if steps is None else []
    notifications = db.read(_NOTIFICATIONS, parameters) if steps is None else []
    wanted = [*failed, *passed_over] if skipped or steps is not None else failed
    disk = _Disk()
    return Failures(
        ids={
            "job": sorted(row["id"] for row in wanted if disk.has(row)),
            "revision": [row["id"] for row in incomplete if disk.has(row)],
            "delivery": [row["id"] for row in deliveries],
            "notification": [row["id"] for row in notifications],
        },
        gone=sum(not disk.has(row) for row in (*wanted, *incomplete)),
        left=0 if skipped or steps is not None else sum(disk.has(row) for row in passed_over),
    )


class _Disk:
    """Which snapshots are still there. Each directory is looked into once: many snapshots may share one."""

    def __init__(self) -> None:
        self._listed: dict[str, frozenset[str] | None] = {}

    def has(self, row: sqlite3.Row) -> bool:
        """True while the snapshot's path, and each of its members if it names some, is there."""
        path = row["path"]
        if row["members"] is None:
            return os.path.exists(path)
        if path not in self._listed:
            try:
                self._listed[path] = frozenset(os.listdir(path))
            except OSError:
                self._listed[path] = None
        names = self._listed[path]
        return names is not None and names.issuperset(json.loads(row["members"]))
