"""What is to be drawn of an evaluation: decided when it is recorded, drawn by another stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

import structlog

from metricwatch.config.pictures import PicturesConfig
from metricwatch.drawing.figures import Comparison, ContactSheet, Figure, Lookalikes, Radar, Spoke
from metricwatch.protocol import Looking
from metricwatch.records import Compared, Evaluation, Job, Look, Lookalike, Picture, Score, Snapshot
from metricwatch.store.best import Extremes
from metricwatch.store.db import Database
from metricwatch.store.evaluated import Evaluated
from metricwatch.store.figures import Figures, kind_of
from metricwatch.store.ledger import Ledger
from metricwatch.store.provenance import comparable
from metricwatch.store.scores import Scores
from metricwatch.supervisor.workspace import Workspace

log = structlog.get_logger(__name__)


class Illustrator:
    """Asks the worker for materials, and puts down what is drawn from them: at most one figure of each kind."""

    def __init__(
        self, db: Database, *, pictures: PicturesConfig, prefix: str, composites: Sequence[str], workspace: Workspace
    ) -> None:
        """composites: the keys by which the best step is chosen, before any other."""
        self._figures = Figures(db)
        self._scores = Scores(db)
        self._extremes = Extremes(db)
        self._evaluated = Evaluated(db)
        self._ledger = Ledger(db)
        self._pictures = pictures
        self._prefix = prefix
        self._composites = composites
        self._workspace = workspace

    def wanted(self, snapshot: Snapshot) -> bool:
        """True where figures of a snapshot that is not recorded yet are wanted: a run's first always.

        Of the very same files there are some already.
        """
        if not (self._pictures.looks or self._pictures.radar) or self._scores.of_same_files(snapshot):
            return False
        return snapshot.step % self._pictures.every == 0 or self._scores.evaluations(snapshot.run) == 0

    def looking(self, job: Job) -> Looking | None:
        """What the worker is to leave of a job's samples."""
        if not self._pictures.looks or not self.wanted(job.snapshot):
            return None
        return Looking(
            folder=self._workspace.look_folder(job.id),
            samples=self._pictures.samples,
            compared=self._pictures.compared,
            neighbours=self._pictures.neighbours,
            heat=self._pictures.heat,
        )

    def enqueue(self, job: Job, evaluation: Evaluation, number: int, *, timestamp_ms: int, now: datetime) -> None:
        """Put down what to draw of an evaluation that has just been recorded under this number."""
        snapshot = job.snapshot
        title = f"{self._ledger.run(snapshot.run).name}, step {snapshot.step:,}"
        for figure in self._of(job, evaluation, title):
            key = f"{self._prefix}/{kind_of(figure)}"
            picture = Picture(key=key, step=snapshot.step, timestamp_ms=timestamp_ms)
            self._figures.enqueue(figure, picture, run=snapshot.run, job=job.id, evaluation=number, now=now)

    def _of(self, job: Job, evaluation: Evaluation, title: str) -> Iterator[Figure]:
        if evaluation.look is not None:
            look = self._own(job, evaluation.look)
            if look.samples:
                yield ContactSheet(title=title, samples=look.samples)
            if look.compared:
                yield Comparison(title=title, rows=look.compared, heat_of=look.heat_of, heat_most=look.heat_most)
            if look.lookalikes:
                yield Lookalikes(
                    title=title,
                    rows=look.lookalikes,
                    space=look.space,
                    searched=look.searched,
                    usual_distance=look.usual_distance,
                )
        if self._pictures.radar and (radar := self._radar(job.snapshot, evaluation.scores, title)):
            yield radar

    # --- the worker's files --------------------------------------------------------------------------------

    def _own(self, job: Job, look: Look) -> Look:
        """What of it lies where the worker was told to leave it."""

        def own(path: str) -> bool:
            if not path or self._workspace.has_look(path, job.id):
                return bool(path)
            reason = "it does not lie where the worker was told to leave pictures"
            log.warning("picture.refused", step=job.snapshot.step, path=path, reason=reason)
            return False

        def compared(row: Compared) -> Compared:
            kept = {name: path if own(path) else "" for name, path in _partners(row)}
            return replace(row, **kept, heat_mean=row.heat_mean if kept["heat"] else None)

        def lookalike(row: Lookalike) -> Lookalike:
            return replace(row, nearest=tuple(item for item in row.nearest if own(item.image)))

        return replace(
            look,
            samples=tuple(item for item in look.samples if own(item.path)),
            compared=tuple(compared(row) for row in look.compared if own(row.image)),
            lookalikes=tuple(lookalike(row) for row in look.lookalikes if own(row.image)),
        )

    # --- the metrics ---------------------------------------------------------------------------------------

    def _radar(self, snapshot: Snapshot, scores: Sequence[Score], title: str) -> Radar | None:
        """All scores from the worst to the best so far, this evaluation included, beside those of the best step."""
        first = next((score for score in self._by_rank(scores) if score.value is not None), None)
        if first is None:
            return None
        extreme = self._extremes.of(snapshot.run, first)
        best = extreme.best if extreme and extreme.best.step != snapshot.step else None
        beside = self._evaluated.scores_beside(best.id) if best else {}
        return Radar(
            title=title,
            step=snapshot.step,
            spokes=tuple(self._spokes(snapshot.run, scores, beside)),
            best_step=best.step if best else None,
            best_by=first.key,
        )

    def _by_rank(self, scores: Sequence[Score]) -> list[Score]:
        return sorted(scores, key=lambda score: score.key not in self._composites)

    def _spokes(self, run: str, scores: Sequence[Score], at_best: dict[str, Score]) -> Iterator[Spoke]:
        for score in scores:
            # One without a value shows where values were.
            last = score if score.value is not None else self._last(run, score.key)
            extreme = self._extremes.of(run, last) if last else None
            if last is None or extreme is None or extreme.best.score.value is None or extreme.worst.score.value is None:
                continue
            other = at_best.get(score.key)
            yield Spoke(
                key=score.key,
                value=score.value,
                best=extreme.best.score.value,
                worst=extreme.worst.score.value,
                higher_is_better=score.higher_is_better,
                at_best_step=other.value if other and comparable(other, last) else None,
            )

    def _last(self, run: str, key: str) -> Score | None:
        newest = self._scores.newest(run, key, with_value=True)
        return newest.score if newest else None


def _partners(row: Compared) -> Iterator[tuple[str, str]]:
    yield from (("content", row.content), ("style", row.style), ("heat", row.heat))
