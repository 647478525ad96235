"""What a rule sees of a run: a series of observations, wherever they were recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from metricwatch.records import ScoreState
from metricwatch.store.scores import SeriesPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One evaluation of one key. id orders observations by arrival; series names what it may be compared with.

    detail says why it has no value; provenance is what the value depends on, as far as it is known.
    """

    id: int
    step: int
    value: float | None
    images: int
    higher_is_better: bool
    stderr: float | None = None
    series: str = ""
    state: ScoreState = ScoreState.OK
    detail: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


def observation(point: SeriesPoint) -> Observation:
    """A score of the ledger as an observation."""
    return Observation(
        id=point.id,
        step=point.step,
        value=point.score.value,
        stderr=point.score.stderr,
        images=point.score.images,
        higher_is_better=point.score.higher_is_better,
        series=point.score.series,
        state=point.score.state,
        detail=point.score.detail,
        provenance=point.score.provenance,
    )
