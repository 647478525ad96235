"""From a worker's answer to what the ledger holds of it, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import structlog

from metricwatch.clock import to_ms
from metricwatch.config.composites import Composite, composite_key
from metricwatch.config.pictures import NO_PICTURES, PicturesConfig
from metricwatch.errors import InputError
from metricwatch.protocol import Looking
from metricwatch.records import Evaluation, Job, JobState, Point, Score, Snapshot
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.ledger import Ledger
from metricwatch.store.pictures import Pictures
from metricwatch.store.scores import Scores
from metricwatch.supervisor.best import BestSteps, changed
from metricwatch.supervisor.composites import progress_at, with_composites
from metricwatch.supervisor.exchange import Before, effort_of, kept, picture_of, points_of, scored_before, tags_of
from metricwatch.supervisor.illustrating import Illustrator
from metricwatch.supervisor.workspace import Workspace

log = structlog.get_logger(__name__)


class Recorder:
    """Writes evaluations down: scores and composites, what each sink gets of them, what is drawn, the job's end."""

    def __init__(
        self,
        db: Database,
        *,
        prefix: str,
        sinks: Sequence[str],
        picture_sinks: Sequence[str],
        composites: Mapping[str, Composite],
        workspace: Workspace,
        dated: Callable[[Snapshot], datetime] | None = None,
        tagged: bool = True,
        pictures: PicturesConfig = NO_PICTURES,
    ) -> None:
        """dated: the time at which a snapshot's points are shown; None: that of recording them.

        tagged False: points and pictures only, where somebody else knows more of the run than this ledger. pictures:
        what is drawn for the picture_sinks.
        """
        self._db = db
        self._dated = dated
        self._tagged = tagged
        self._ledger = Ledger(db)
        self._scores = Scores(db)
        self._deliveries = Deliveries(db)
        self._pictures = Pictures(db)
        self._prefix = prefix
        self._sinks = sinks
        self._picture_sinks = picture_sinks
        self._composites = composites
        self._workspace = workspace
        self._best = BestSteps(db)
        self._illustrator = Illustrator(
            db,
            pictures=pictures if picture_sinks else NO_PICTURES,
            prefix=prefix,
            composites=[composite_key(name) for name in composites],
            workspace=workspace,
        )

    def looking(self, job: Job) -> Looking | None:
        """What the worker is to leave of a job's samples, for figures; None where nobody wants any."""
        return self._illustrator.looking(job)

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
        illustrated = self._illustrator.wanted(snapshot)
        keys = [score.key for score in evaluation.scores]
        timestamp_ms = to_ms(self._dated(snapshot) if self._dated else now)
        with self._db.transaction("evaluation"):
            before = scored_before(self._scores, snapshot.run, snapshot.step, evaluation)
            best = self._best.tags(snapshot.run, keys) if self._tagged else {}
            number = self._scores.record(job, evaluation, now)
            scores = tuple(score for score in evaluation.scores if score is not known.get(score.key))
            news = replace(evaluation, scores=scores)
            points = self._points(news, evaluation, snapshot.step, timestamp_ms, again=bool(known))
            tags = {}
            if self._tagged:
                tags = tags_of(evaluation, before, snapshot.step)
                tags |= changed(best, self._best.tags(snapshot.run, keys))
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
                self._enqueue_pictures(job, evaluation, number, timestamp_ms=timestamp_ms, now=now)
            if illustrated:
                self._illustrator.enqueue(job, evaluation, number, timestamp_ms=timestamp_ms, now=now)
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

    def _points(
        self, news: Evaluation, evaluation: Evaluation, step: int, timestamp_ms: int, *, again: bool
    ) -> list[Point]:
        points = points_of(news, prefix=self._prefix, step=step, timestamp_ms=timestamp_ms)
        if points or not again:
            # Of the whole evaluation: a metric of such a name keeps it, news or not.
            points += effort_of(evaluation, prefix=self._prefix, step=step, timestamp_ms=timestamp_ms)
        return points

    def _enqueue_pictures(
        self, job: Job, evaluation: Evaluation, number: int, *, timestamp_ms: int, now: datetime
    ) -> None:
        snapshot = job.snapshot
        for sample in evaluation.kept:
            if not self._workspace.has_picture(sample.path):
                reason = "it does not lie where the worker was told to keep pictures"
                log.warning("picture.refused", step=snapshot.step, path=sample.path, reason=reason)
                continue
            picture = picture_of(sample, prefix=self._prefix, step=snapshot.step, timestamp_ms=timestamp_ms)
            for sink in self._picture_sinks:
                self._pictures.enqueue(
                    sink=sink,
                    run=snapshot.run,
                    identity=f"evaluation/{number}/{sample.name}",
                    picture=picture,
                    path=sample.path,
                    now=now,
                )
