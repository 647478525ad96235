"""When a run was last heard of: its evaluations, what waits to be scored, and whether it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from metricwatch.clock import from_ms, to_ms
from metricwatch.store.db import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """The evaluation that came last. highest is the highest step that is evaluated, which may be another one's."""

    id: int
    step: int
    highest: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OnDisk:
    """What has settled on disk for a run. waiting are to be scored, failed could not be since the time asked for.

    newest_* are the highest step of those; settled_at is when the last snapshot of all settled, None without any.
    """

    waiting: int
    newest_waiting: int | None
    failed: int
    newest_failed: int | None
    settled_at: datetime | None


class Arrivals:
    """Reads only. newest() and newest_id() look into indexes and are for every turn; the others are not."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def newest_id(self) -> int:
        """The id of the evaluation that came last, of whatever run; 0 without any."""
        row = self._db.read_one("SELECT max(id) AS id FROM evaluations")
        return int(row["id"] or 0) if row else 0

    def newest(self, run: str, metric: str) -> Arrival | None:
        """The evaluation of a run that came last, or with a metric the last one that scored it."""
        if metric:
            row = self._db.read_one(
                """SELECT evaluations.id, evaluations.step, evaluated_ms,
                     (SELECT max(step) FROM scores WHERE run = :run AND key = :key) AS highest
                   FROM scores JOIN evaluations ON evaluations.id = scores.evaluation
                   WHERE scores.id = (SELECT max(id) FROM scores WHERE run = :run AND key = :key)""",
                {"run": run, "key": metric},
            )
        else:
            row = self._db.read_one(
                """SELECT id, step, evaluated_ms, (SELECT max(step) FROM evaluations WHERE run = :run) AS highest
                   FROM evaluations WHERE id = (SELECT max(id) FROM evaluations WHERE run = :run)""",
                {"run": run},
            )
        if row is None:
            return None
        return Arrival(id=row["id"], step=row["step"], highest=row["highest"], at=from_ms(row["evaluated_ms"]))

    def on_disk(self, run: str, *, since: datetime | None) -> OnDisk:
        """What is there of a run beside its evaluations."""
        row = self._db.read(
            """SELECT count(*) FILTER (WHERE jobs.state IN ('queued', 'leased')) AS waiting,
                 max(jobs.step) FILTER (WHERE jobs.state IN ('queued', 'leased')) AS newest_waiting,
                 count(*) FILTER (WHERE jobs.state IN ('failed', 'quarantined') AND finished_ms >= :since) AS failed,
                 max(jobs.step) FILTER (WHERE jobs.state IN ('failed', 'quarantined') AND finished_ms >= :since)
                   AS newest_failed,
                 max(snapshots.settled_ms) AS settled_ms
               FROM snapshots LEFT JOIN jobs ON jobs.snapshot = snapshots.id WHERE snapshots.run = :run""",
            {"run": run, "since": 0 if since is None else to_ms(since)},
        )[0]
        return OnDisk(
            waiting=row["waiting"],
            newest_waiting=row["newest_waiting"],
            failed=row["failed"],
            newest_failed=row["newest_failed"],
            settled_at=None if row["settled_ms"] is None else from_ms(row["settled_ms"]),
        )

    def last_steps(self, run: str) -> list[int]:
        """The highest steps of a run that are evaluated, a handful, the highest first."""
        rows = self._db.read("SELECT DISTINCT step FROM evaluations WHERE run = ? ORDER BY step DESC LIMIT 5", (run,))
        return [row["step"] for row in rows]

    def ended(self, run: str) -> bool:
        """True when a sink has learned that the training job has finished well."""
        return self._db.read_one("SELECT 1 FROM remote_runs WHERE run = ? AND ended_ms IS NOT NULL", (run,)) is not None
