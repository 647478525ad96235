"""The best and the worst evaluation of a curve, as the ledger tells them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from metricwatch.records import Evaluation, JobState, Run, Score, ScoreState
from metricwatch.store.best import Extremes
from metricwatch.store.db import Database
from metricwatch.store.ledger import Ledger, Recorded
from metricwatch.store.scores import Scores
from metricwatch.testing.clock import FakeClock

RUN = Run(key="night", name="night")
SCORE = Score(key="fid", value=1.0, images=100, higher_is_better=False, series="a", provenance={"names_digest": "n"})


class Curve:
    def __init__(self, folder: Path) -> None:
        self.clock, self.db = FakeClock(), Database.open(folder)
        self.ledger, self.scores, self.extremes = Ledger(self.db), Scores(self.db), Extremes(self.db)
        self.ledger.register_run(RUN, self.clock.now())

    def score(self, step: int, value: float | None, *, revision: int = 1, **settings: object) -> Score:
        """Record an evaluation and look for the ends of its curve in the same transaction."""
        recorded = Recorded(revision=revision, digest=f"{revision}", images=100, newest_ns=1, mtime_ns=1)
        self.ledger.add_snapshot(
            source="s", run=RUN.key, step=step, path="p", members=None, recorded=recorded, now=self.clock.now()
        )
        job = self.ledger.claim(self.clock.now(), timedelta(minutes=1), ["s"])
        state = ScoreState.OK if value is not None else ScoreState.COLLAPSED
        score = replace(SCORE, value=value, state=state, **settings)
        evaluation = Evaluation(scores=(score,), skipped=(), images=100, seconds=1.0, provenance={})
        with self.db.transaction("test"):
            self.scores.record(job, evaluation, self.clock.now())
            self.ledger.finish(job.id, JobState.DONE, self.clock.now())
            self.seen = self.ends(score)
        return score

    def ends(self, score: Score = SCORE) -> tuple[int, int] | None:
        found = self.extremes.of(RUN.key, score)
        return (found.best.step, found.worst.step) if found else None


@pytest.fixture
def curve(tmp_path: Path) -> Iterator[Curve]:
    made = Curve(tmp_path)
    yield made
    made.db.close()


def test_the_ends_of_a_curve_are_known_in_the_transaction_that_records_them(curve):
    seen = []
    for step, value in ((1, 5.0), (2, 3.0), (3, 9.0), (4, 4.0)):
        curve.score(step, value)
        seen.append(curve.seen)
    assert seen == [(1, 1), (2, 1), (2, 3), (2, 3)]
    found = curve.extremes.of(RUN.key, SCORE)
    assert (found.best.score.value, found.worst.score.value) == (3.0, 9.0)


def test_where_higher_is_better_the_highest_is_best(curve):
    for step, value in ((1, 5.0), (2, 3.0), (3, 9.0)):
        curve.score(step, value, higher_is_better=True)
    assert curve.ends(replace(SCORE, higher_is_better=True)) == (3, 2)


def test_of_equal_values_the_lowest_step_counts_whichever_arrived_first(curve):
    for step in (3, 1, 2):
        curve.score(step, 7.0)
    assert curve.ends() == (1, 1)
    assert curve.ends(replace(SCORE, higher_is_better=True)) == (1, 1)


def test_of_a_rewritten_step_only_the_newest_revision_counts(curve):
    curve.score(1, 5.0)
    curve.score(2, 3.0)
    curve.score(2, 8.0, revision=2)
    assert curve.ends() == (1, 2)
    curve.score(2, None, revision=3)
    assert curve.ends() == (1, 1)


def test_another_series_another_metric_and_another_run_have_ends_of_their_own(curve):
    curve.score(1, 1.0, series="b")
    curve.score(2, 1.0, key="kid")
    curve.score(3, 5.0)
    assert curve.ends() == (3, 3)
    assert curve.extremes.of("other", SCORE) is None


@pytest.mark.parametrize(("images", "compares"), [(98, True), (97, False), (102, True), (103, False)])
def test_image_counts_compare_within_two_percent_of_the_larger(curve, images, compares):
    curve.score(1, 1.0, images=images)
    curve.score(2, 5.0)
    assert curve.ends() == ((1, 2) if compares else (2, 2))


def test_images_with_other_partners_are_passed_over_however_many_there_are(curve):
    for step in range(1, 9):
        curve.score(step, 1.0 + step, provenance={"names_digest": "n", "pairs_digest": "old"})
    new = {"names_digest": "n", "pairs_digest": "new"}
    curve.score(20, 30.0, provenance=new)
    curve.score(21, 31.0, provenance=new)
    assert curve.ends(replace(SCORE, provenance=new)) == (20, 21)


def test_a_score_without_a_value_compares_with_nothing(curve):
    curve.score(1, 5.0)
    assert curve.ends(replace(SCORE, value=None, state=ScoreState.COLLAPSED)) is None
    assert curve.ends(replace(SCORE, series="never seen")) is None
