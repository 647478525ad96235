"""What a rule sees of a run: a series of observations, wherever they were recorded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from metricwatch.records import ScoreState
from metricwatch.store.scores import SeriesPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One evaluation of one key. id orders observations by arrival; series names what it may be compared with."""

    id: int
    step: int
    value: float | None
    images: int
    higher_is_better: bool
    stderr: float | None = None
    series: str = ""
    state: ScoreState = ScoreState.OK


def from_scores(points: Iterable[SeriesPoint]) -> list[Observation]:
    """The ledger's scores as observations, in the same order."""
    return [
        Observation(
            id=point.id,
            step=point.step,
            value=point.score.value,
            stderr=point.score.stderr,
            images=point.score.images,
            higher_is_better=point.score.higher_is_better,
            series=point.score.series,
            state=point.score.state,
        )
        for point in points
    ]
