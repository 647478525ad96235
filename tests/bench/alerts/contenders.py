"""The rules that are compared: ours, as a configuration says them, and two that people write first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Literal

from pydantic import TypeAdapter

from metricwatch.config.rules import Rule
from metricwatch.records import AlertState
from metricwatch.rules.observations import Observation
from metricwatch.rules.states import evaluate
from tests.bench.alerts.curves import LEVEL

# What a rule says at one evaluation.
Verdict = Literal["", "worse", "better"]
_MARGIN = 0.10
_MOVES: dict[str, Any] = {"moves": "10%", "across": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    name: str
    judge: Callable[[Sequence[Observation]], list[Verdict]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """An unbroken stretch of firing in one direction, from index start up to, and without, end: one alert."""

    direction: Verdict
    start: int
    end: int


def firings(verdicts: Sequence[Verdict]) -> list[Firing]:
    found, at = [], 0
    for direction, stretch in groupby(verdicts):
        length = sum(1 for _ in stretch)
        if direction:
            found.append(Firing(direction=direction, start=at, end=at + length))
        at += length
    return found


def _ours(rule: Rule, series: Sequence[Observation]) -> list[Verdict]:
    return [state.direction or "" if state.state is AlertState.FIRING else "" for state in evaluate(rule, series)]


def _off_the_last(series: Sequence[Observation]) -> list[Verdict]:
    """Worse by 10% than the value before. Knows of no noise, no image counts and no improvement."""
    verdicts: list[Verdict] = []
    last: float | None = None
    for item in series:
        worse = item.value is not None and last is not None and item.value > last * (1 + _MARGIN)
        verdicts.append("worse" if worse else "")
        last = last if item.value is None else item.value
    return verdicts


def _off_the_best(series: Sequence[Observation]) -> list[Verdict]:
    """Worse by 10% than the best value so far."""
    verdicts: list[Verdict] = []
    best: float | None = None
    for item in series:
        worse = item.value is not None and best is not None and item.value > best * (1 + _MARGIN)
        verdicts.append("worse" if worse else "")
        if item.value is not None:
            best = item.value if best is None else min(best, item.value)
    return verdicts


DEFAULT = "moves 10% across 5"
EACH = f"{DEFAULT}, each"
LAST, BEST = "naive: 10% off the last", "naive: 10% off the best"
_RULES: dict[str, dict[str, Any]] = {
    DEFAULT: _MOVES,
    f"{DEFAULT}, beyond_noise 2": {**_MOVES, "beyond_noise": 2},
    f"{DEFAULT}, beyond_noise 3": {**_MOVES, "beyond_noise": 3},
    f"{DEFAULT}, beyond_noise 4": {**_MOVES, "beyond_noise": 4},
    f"{DEFAULT}, worse, for 2": {**_MOVES, "direction": "worse", "for": 2},
    # The most that across 5 allows: a jump is inside a window of five for four evaluations.
    f"{DEFAULT}, worse, for 4": {**_MOVES, "direction": "worse", "for": 4},
    f"{DEFAULT}, net": {**_MOVES, "mode": "net"},
    f"{DEFAULT}, net, beyond_noise 2": {**_MOVES, "mode": "net", "beyond_noise": 2},
    f"{DEFAULT}, net, worse, for 2": {**_MOVES, "mode": "net", "direction": "worse", "for": 2},
    f"{DEFAULT}, net, worse, for 2, keep_firing 5": {
        **_MOVES,
        "mode": "net",
        "direction": "worse",
        "for": 2,
        "keep_firing": 5,
    },
    EACH: {**_MOVES, "mode": "each"},
    "moves 10% across 20, net, beyond_noise 3": {"moves": "10%", "across": 20, "mode": "net", "beyond_noise": 3},
    "z_score 4": {"z_score": 4, "window": 20},
    "z_score 6": {"z_score": 6, "window": 20},
    "z_score 4, for 2": {"z_score": 4, "window": 20, "for": 2},
    "above +10%": {"above": LEVEL * (1 + _MARGIN)},
    "above +10%, for 2": {"above": LEVEL * (1 + _MARGIN), "for": 2},
}
_READ: TypeAdapter[Rule] = TypeAdapter(Rule)
CONTENDERS = (
    *(
        Contender(name=name, judge=partial(_ours, _READ.validate_python({"name": "bench", "metric": "fid", **fields})))
        for name, fields in _RULES.items()
    ),
    Contender(name=LAST, judge=_off_the_last),
    Contender(name=BEST, judge=_off_the_best),
)
