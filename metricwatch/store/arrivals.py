"""When a run was last heard of: its evaluations, what waits to be scored, and whether it has ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from metricwatch.clock import from_ms, to_ms
from metricwatch.store.db import Database

# A job writes its last files about when it ends.
_LAST_FILES = timedelta(minutes=10)


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
    """newest() and newest_id() look into indexes and are for every turn; the others are not."""

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
        """True when a sink has learned that the training job has finished well, and nobody went on with it since.

        Who resumes a job need not tell the sink: what settles long after the end is not the last of it being written.
        """
        return bool(
            self._db.read(
                """SELECT 1 FROM remote_runs WHERE run = :run AND ended_ms IS NOT NULL AND NOT EXISTS (
                     SELECT 1 FROM snapshots WHERE run = :run AND settled_ms > ended_ms + :last)""",
                {"run": run, "last": _LAST_FILES // timedelta(milliseconds=1)},
            )
        )

    def known_since(self, run: str) -> datetime | None:
        """When the run was first configured; None for one that never was."""
        row = self._db.read_one("SELECT created_ms FROM runs WHERE key = ?", (run,))
        return from_ms(row["created_ms"]) if row else None

    def watched(self, run: str, metric: str, evaluation: int) -> timedelta:
        """For how long daemons of before have watched the run since that evaluation (0: the beginning)."""
        row = self._db.read_one(
            "SELECT seconds FROM watched_time WHERE run = ? AND metric = ? AND evaluation = ?",
            (run, metric, evaluation),
        )
        return timedelta(seconds=row["seconds"] if row else 0)

    def note_watched(self, rows: Iterable[tuple[str, str, int, float]]) -> None:
        """Keep run, metric, last evaluation, and for how many seconds it has been watched since. The rules' alone."""
        with self._db.transaction("watched") as tx:
            tx.executemany(
                """INSERT INTO watched_time (run, metric, evaluation, seconds) VALUES (?, ?, ?, ?)
                   ON CONFLICT (run, metric) DO UPDATE SET evaluation = excluded.evaluation,
                     seconds = excluded.seconds""",
                rows,
            )
