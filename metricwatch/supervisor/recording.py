"""From a worker's answer to what the ledger holds of it, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import structlog

from metricwatch.clock import to_ms
from metricwatch.config.composites import Composite
from metricwatch.errors import InputError
from metricwatch.records import Evaluation, Job, JobState, Score
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger
from metricwatch.store.pictures import Pictures
from metricwatch.store.scores import Scores
from metricwatch.supervisor.composites import progress_at, with_composites
from metricwatch.supervisor.exchange import Before, kept, picture_of, points_of, scored_before, tags_of
from metricwatch.supervisor.workspace import Workspace

log = structlog.get_logger(__name__)


class Recorder:
    """Writes evaluations down: scores and composites, what each sink gets of them, and the end of the job."""

    def __init__(
        self,
        db: Database,
        *,
        prefix: str,
        sinks: Sequence[str],
        picture_sinks: Sequence[str],
        composites: Mapping[str, Composite],
        workspace: Workspace,
    ) -> None:
        self._db = db
        self._ledger = Ledger(db)
        self._scores = Scores(db)
        self._deliveries = Deliveries(db)
        self._pictures = Pictures(db)
        self._prefix = prefix
        self._sinks = sinks
        self._picture_sinks = picture_sinks
        self._composites = composites
        self._workspace = workspace

    def record(
        self, job: Job, evaluation: Evaluation, now: datetime, *, total_steps: int | None
    ) -> tuple[Evaluation, dict[str, Before]]:
        """Write an evaluation down, all or nothing; returns it as recorded, and by key what was scored before.

        Scores that the same files have already are kept in the place of their likes, and neither they nor pictures are
        sent a second time. Raises InputError when two scores have the same key; nothing is recorded then.
        """
        snapshot = job.snapshot
        known = self._scores.of_same_files(snapshot)
        evaluation = self._completed(evaluation, known, progress_at(snapshot.step, total_steps), total_steps)
        with self._db.transaction("evaluation"):
            before = scored_before(self._scores, snapshot.run, snapshot.step, evaluation)
            number = self._scores.record(job, evaluation, now)
            scores = tuple(score for score in evaluation.scores if score is not known.get(score.key))
            news = replace(evaluation, scores=scores)
            points = points_of(news, prefix=self._prefix, step=snapshot.step, timestamp_ms=to_ms(now))
            tags = tags_of(evaluation, before, snapshot.step)
            if points or tags:
                for sink in self._sinks:
                    self._deliveries.enqueue(
                        sink=sink,
                        run=snapshot.run,
                        identity=f"evaluation/{number}",
                        points=points,
                        tags=tags,
                        now=now,
                    )
            # Of the same files they are there already.
            if not known:
                self._enqueue_pictures(job, evaluation, number, now)
            self._ledger.finish(job.id, JobState.DONE, now)
        return evaluation, before

    def _completed(
        self, evaluation: Evaluation, known: Mapping[str, Score], p: float | None, total_steps: int | None
    ) -> Evaluation:
        scores = kept(known, evaluation.scores)
        scores = kept(known, with_composites(scores, self._composites, p, total_steps=total_steps))
        keys = [score.key for score in scores]
        if len(set(keys)) != len(keys):
            twice = ", ".join(sorted({key for key in keys if keys.count(key) > 1}))
            raise InputError(f"two metrics gave the same key: {twice}")
        return replace(evaluation, scores=scores)

    def _enqueue_pictures(self, job: Job, evaluation: Evaluation, number: int, now: datetime) -> None:
        snapshot = job.snapshot
        for sample in evaluation.kept:
            if not self._workspace.has_picture(sample.path):
                reason = "it does not lie where the worker was told to keep pictures"
                log.warning("picture.refused", step=snapshot.step, path=sample.path, reason=reason)
                continue
            picture = picture_of(sample, prefix=self._prefix, step=snapshot.step, timestamp_ms=to_ms(now))
            for sink in self._picture_sinks:
                self._pictures.enqueue(
                    sink=sink,
                    run=snapshot.run,
                    identity=f"evaluation/{number}/{sample.name}",
                    picture=picture,
                    path=sample.path,
                    now=now,
                )
