"""What a rule says, in words for people."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from metricwatch.config.rules import BaseRule

_MODES = {
    "range": "between the highest and the lowest of {across} evaluations",
    "net": "from the first to the last of {across} evaluations",
    "each": "at every step of {across} evaluations",
}


def in_words(rule: BaseRule) -> str:
    """A sentence: Fires when fid moves by more than 10% between the highest and the lowest of 5 evaluations."""
    given = {name: getattr(rule, name) for name in type(rule).model_fields}
    return f"Fires when {_condition(rule.metric, given)}{_provisos(given)}."


def bounds_of(rule: BaseRule) -> tuple[float, ...]:
    """The values that a rule compares with, in the metric's own unit; () where it looks at movements or states."""
    found = (getattr(rule, name, None) for name in ("above", "below"))
    return tuple(float(bound) for bound in found if bound is not None)


def span_words(span: timedelta) -> str:
    """A time span as it may be written in the file: 90m, 2h, 1d."""
    seconds = span.total_seconds()
    units = ((86_400, "d"), (3600, "h"), (60, "m"))
    size, letter = next(((size, letter) for size, letter in units if seconds >= size and seconds % size == 0), (1, "s"))
    return f"{seconds / size:g}{letter}"


def _condition(metric: str, given: dict[str, Any]) -> str:
    if given.get("moves") is not None:
        where = _MODES[given["mode"]].format(across=given["across"])
        return f"{metric} moves by more than {given['moves'] * 100:.4g}% {where}"
    for side in ("above", "below"):
        if given.get(side) is not None:
            return f"{metric} is {side} {given[side]:g}"
    if given.get("z_score") is not None:
        return (
            f"{metric} is more than {given['z_score']:g} robust standard deviations away from the median of the "
            f"{given['window']} evaluations before it"
        )
    if given.get("stale") is not None:
        return f"{metric or 'the run'} had no evaluation for {span_words(given['stale'])}"
    if given.get("nonfinite"):
        return f"{metric} is not a finite number"
    states = given.get("state") or ()
    return f"{metric} has no value" if "any" in states else f"{metric} has no value: {' or '.join(states)}"


def _provisos(given: dict[str, Any]) -> str:
    """What else must hold, as far as it is not the default."""
    parts = []
    direction = given.get("direction")
    if direction in {"worse", "better"}:
        parts.append(f"for the {direction} only")
    if given.get("beyond_noise"):
        parts.append(f"by more than {given['beyond_noise']:g} standard errors")
    if given.get("in_a_row", 1) > 1:
        parts.append(f"in {given['in_a_row']} evaluations in a row")
    if given.get("warmup"):
        parts.append(f"not within a run's first {given['warmup']}")
    if given.get("keep_firing"):
        parts.append(f"and for {given['keep_firing']} more once it is over")
    return "".join(f", {part}" for part in parts)
