"""Composites: scores computed from an evaluation's other scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from metricwatch.config.composites import Composite, composite_key
from metricwatch.config.expressions import PROGRESS, Result, UndefinedError
from metricwatch.records import Score, ScoreState

# The same for every score of an evaluation, so said once.
_COMMON = ("precision", "engine", "device", "torch", "metricwatch")


def progress_at(step: int, total_steps: int | None) -> float | None:
    """The share of the training that is done at a step, 0..1; None where the run's length is not known."""
    return None if total_steps is None else min(max(step, 0) / total_steps, 1.0)


def with_composites(
    scores: Sequence[Score], composites: Mapping[str, Composite], p: float | None, *, total_steps: int | None = None
) -> tuple[Score, ...]:
    """The scores, followed by one for each composite by name. p is the training's progress, None where unknown.

    total_steps is what p was measured against: where p matters, another length of the run starts a new series.

    A composite is NO_INPUT where a score it is made of has no value, NON_FINITE where the arithmetic has none. Its
    images are the fewest of any component. Its stderr is an upper bound, to first order, whatever the correlation of
    the components: the sum of |slope| * stderr; None where the value depends on a component without one. Its series
    changes with the expression, the direction and the series of any component.
    """
    known = {score.key: score for score in scores}
    return (*scores, *(_score(name, composite, known, p, total_steps) for name, composite in composites.items()))


def _score(
    name: str, composite: Composite, known: Mapping[str, Score], p: float | None, total_steps: int | None
) -> Score:
    expression = composite.parsed
    wanted = sorted(expression.names - {PROGRESS})
    definition = {
        "expression": expression.canonical,
        "better": "higher" if composite.higher_is_better else "lower",
        **({"total_steps": str(total_steps)} if total_steps and PROGRESS in expression.names else {}),
    }
    components = {key: known[key] for key in wanted if key in known}
    value, stderr, state, detail = None, None, ScoreState.OK, ""
    if lacks := [_lack(key, known.get(key)) for key in wanted if not _usable(known.get(key))]:
        state, detail = ScoreState.NO_INPUT, "; ".join(lacks)
    elif PROGRESS in expression.names and p is None:
        state, detail = ScoreState.NO_INPUT, f"{PROGRESS} is not known: the run does not say its total_steps"
    else:
        values = {key: score.value for key, score in components.items() if score.value is not None}
        try:
            result = expression.evaluate(values if p is None else {**values, PROGRESS: p})
        except UndefinedError as error:
            given = ", ".join(f"{key} = {number:.6g}" for key, number in values.items())
            state, detail = ScoreState.NON_FINITE, f"{error}, with {given}"
        else:
            value, stderr = result.value, _stderr(result, components)
    return Score(
        key=composite_key(name),
        value=value,
        stderr=stderr,
        images=min((score.images for score in components.values()), default=0),
        higher_is_better=composite.higher_is_better,
        state=state,
        detail=detail,
        series=_series(name, definition, [known[key].series if key in known else "" for key in wanted]),
        provenance={**definition, **_provenance(components)},
    )


def _usable(score: Score | None) -> bool:
    return score is not None and score.value is not None


def _lack(key: str, score: Score | None) -> str:
    if score is None:
        return f"{key} is not among the scores"
    return f"{key} has no value: {score.state.value}{f' ({score.detail})' if score.detail else ''}"


def _stderr(result: Result, components: Mapping[str, Score]) -> float | None:
    parts = []
    for key, score in components.items():
        slope = result.slopes.get(key, 0.0)
        if slope == 0:
            continue
        if score.stderr is None:
            return None
        parts.append(abs(slope) * score.stderr)
    bound = math.fsum(parts) if all(map(math.isfinite, parts)) else math.nan
    return bound if math.isfinite(bound) else None


def _series(name: str, definition: Mapping[str, str], series: Sequence[str]) -> str:
    parts = [composite_key(name), *(f"{key}={value}" for key, value in definition.items()), *series]
    return blake2b("\0".join(parts).encode(), digest_size=6).hexdigest()


def _provenance(components: Mapping[str, Score]) -> dict[str, str]:
    """What each component depends on, under its own name: fid.reference_digest."""
    return {
        name if name in _COMMON else f"{key}.{name}": value
        for key, score in components.items()
        for name, value in score.provenance.items()
    }
