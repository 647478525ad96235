"""Evaluations and their scores: written once, never changed."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from datetime import datetime

from metricwatch.clock import to_ms
from metricwatch.records import Evaluation, Job, Score, ScoreState, Skipped, Snapshot
from metricwatch.store.db import Database
from metricwatch.store.provenance import comparable


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesPoint:
    """One evaluation in a series: the newest revision of its step. id orders evaluations by arrival."""

    id: int
    step: int
    revision: int
    score: Score


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesChange:
    """Where a key's present series begins: its first evaluation, and the last one of the series before it."""

    before: SeriesPoint
    after: SeriesPoint


class Scores:
    """What was measured, with what it depends on."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def record(self, job: Job, evaluation: Evaluation, now: datetime) -> int:
        """Keep an evaluation and its scores; returns the evaluation's id. Join the job's own transaction."""
        snapshot = job.snapshot
        with self._db.transaction("scores") as tx:
            row = tx.execute(
                """INSERT INTO evaluations
                     (job, run, step, revision, images, seconds, skipped, provenance, evaluated_ms)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id""",
                (
                    job.id,
                    snapshot.run,
                    snapshot.step,
                    snapshot.revision,
                    evaluation.images,
                    evaluation.seconds,
                    json.dumps([asdict(item) for item in evaluation.skipped]),
                    json.dumps(dict(evaluation.provenance), sort_keys=True),
                    to_ms(now),
                ),
            ).fetchone()
            tx.executemany(
                """INSERT INTO scores (evaluation, run, step, revision, key, value, stderr, images, state, detail,
                     higher_is_better, series, provenance) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                [
                    (
                        row["id"],
                        snapshot.run,
                        snapshot.step,
                        snapshot.revision,
                        score.key,
                        score.value,
                        score.stderr,
                        score.images,
                        score.state.value,
                        score.detail,
                        int(score.higher_is_better),
                        score.series,
                        json.dumps(dict(score.provenance), sort_keys=True),
                    )
                    for score in evaluation.scores
                ],
            )
            return int(row["id"])

    def series(self, run: str, key: str, *, up_to: int | None = None) -> list[SeriesPoint]:
        """All evaluations of one key in a run, ordered by step, the newest revision of each step.

        With up_to as they were when the score of that id had arrived.
        """
        rows = self._db.read(
            """SELECT id, step, max(revision) AS revision, key, value, stderr, images, state, detail, higher_is_better,
                 series, provenance FROM scores WHERE run = ? AND key = ? AND (? IS NULL OR id <= ?)
               GROUP BY step ORDER BY step""",
            (run, key, up_to, up_to),
        )
        return [point_of(row) for row in rows]

    def arrived(self, run: str, key: str, *, after: int) -> list[SeriesPoint]:
        """What has arrived of a key in a run since the score of that id, in the order of arrival."""
        rows = self._db.read(
            "SELECT * FROM scores INDEXED BY scores_by_arrival WHERE run = ? AND key = ? AND id > ? ORDER BY id",
            (run, key, after),
        )
        return [point_of(row) for row in rows]

    def newest(self, run: str, key: str, *, with_value: bool = False) -> SeriesPoint | None:
        """The evaluation of a key at the highest step, its newest revision; with_value: of those that have one."""
        row = self._db.read_one(
            """SELECT * FROM scores WHERE run = ? AND key = ? AND (state = 'ok' OR ?)
               ORDER BY step DESC, revision DESC LIMIT 1""",
            (run, key, not with_value),
        )
        return point_of(row) if row else None

    def of_same_files(self, snapshot: Snapshot) -> dict[str, Score]:
        """By key, what the revision before was scored, where its files were the very same. {} where they were not."""
        rows = self._db.read(
            """SELECT scores.* FROM snapshots JOIN jobs ON jobs.snapshot = snapshots.id
                 JOIN evaluations ON evaluations.job = jobs.id JOIN scores ON scores.evaluation = evaluations.id
               WHERE snapshots.source = ? AND snapshots.step = ? AND snapshots.revision = ? AND snapshots.digest = ?""",
            (snapshot.source, snapshot.step, snapshot.revision - 1, snapshot.digest),
        )
        return {row["key"]: point_of(row).score for row in rows}

    def last_change(self, run: str, key: str) -> SeriesChange | None:
        """Where the series of the newest value begins; None while it is the first one.

        Evaluations without a value belong to no series; of each step the newest revision counts.
        """
        after = None
        for point in reversed(self.series(run, key)):
            if point.score.state is not ScoreState.OK:
                continue
            if after is not None and not comparable(point.score, after.score):
                return SeriesChange(before=point, after=after)
            after = point
        return None

    def keys(self, run: str) -> list[str]:
        """The keys that have been scored in a run."""
        return [
            row["key"] for row in self._db.read("SELECT DISTINCT key FROM scores WHERE run = ? ORDER BY key", (run,))
        ]

    def newest_id(self, run: str, key: str) -> int:
        """The id of the score that arrived last, 0 when there is none."""
        row = self._db.read_one("SELECT max(id) AS id FROM scores WHERE run = ? AND key = ?", (run, key))
        return int(row["id"] or 0) if row else 0

    def skipped(self, run: str, limit: int = 20) -> list[tuple[int, Skipped]]:
        """The files left out of a run's evaluations with their steps, newest first. Rewritten steps count anew."""
        rows = self._db.read(
            """SELECT step, skipped FROM evaluations WHERE run = ? AND skipped <> '[]' AND NOT EXISTS (
                 SELECT 1 FROM evaluations AS newer WHERE newer.run = evaluations.run
                   AND newer.step = evaluations.step AND newer.revision > evaluations.revision)
               ORDER BY evaluations.id DESC LIMIT ?""",
            (run, limit),
        )
        # Not by SQLite's own JSON functions: a file's name need not be UTF-8, and they would refuse it.
        found = [(row["step"], Skipped(**item)) for row in rows for item in json.loads(row["skipped"])]
        return found[:limit]

    def failed(self) -> int:
        """How many scores have failed in all: a metric that could not be computed."""
        row = self._db.read_one("SELECT count(*) AS n FROM scores WHERE state = 'failed'")
        return int(row["n"]) if row else 0

    def evaluations(self, run: str) -> int:
        """How many evaluations a run has."""
        row = self._db.read_one("SELECT count(*) AS n FROM evaluations WHERE run = ?", (run,))
        return int(row["n"]) if row else 0


def point_of(row: sqlite3.Row) -> SeriesPoint:
    """A row of the table `scores`."""
    return SeriesPoint(
        id=row["id"],
        step=row["step"],
        revision=row["revision"],
        score=Score(
            key=row["key"],
            value=row["value"],
            stderr=row["stderr"],
            images=row["images"],
            state=ScoreState(row["state"]),
            detail=row["detail"],
            higher_is_better=bool(row["higher_is_better"]),
            series=row["series"],
            provenance=json.loads(row["provenance"]),
        ),
    )
