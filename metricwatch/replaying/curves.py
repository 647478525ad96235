"""A recorded run as rules see it: observations in the order of steps, made of a sink's points."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from metricwatch.api import Point, Sink
from metricwatch.clock import from_ms
from metricwatch.records import ScoreState
from metricwatch.rules.observations import Observation

STDERR = "_stderr"
# Under which the daemon logs what rules say: a point for each evaluation that a rule has looked at.
ALERTS = "alert/"


class Show(Protocol):
    """Show that `done` of `total` of something is reached."""

    def __call__(self, what: str, done: int, total: int) -> None: ...


class Curves:
    """One run's curves in a sink, each read once. Methods raise as Sink.read() does."""

    def __init__(self, sink: Sink, run_id: str, *, prefix: str) -> None:
        self._sink = sink
        self._run_id = run_id
        self._prefix = prefix
        self.keys = tuple(sink.keys(run_id))
        self._known = frozenset(self.keys)
        self._ours = any(
            key.startswith(ALERTS) or (key.startswith(f"{prefix}/") and f"{key}{STDERR}" in self._known)
            for key in self.keys
        )
        self._read: dict[str, Sequence[Point]] = {}
        self._observed: dict[tuple[str, bool, tuple[str, ...]], tuple[list[Observation], dict[int, datetime]]] = {}

    def key_of(self, metric: str) -> str | None:
        """The key of a rule's metric: with the prefix where there is one, else the metric's name as it is."""
        return next((key for key in (f"{self._prefix}/{metric}", metric) if key in self._known), None)

    def names(self) -> list[str]:
        """What rules can be about, as they may name it: our own keys without their prefix."""
        return [key.removeprefix(f"{self._prefix}/") for key in self.keys if not self._beside(key)]

    def ours(self) -> bool:
        """True for a run that a daemon has logged to: it holds alerts, or scores with standard errors."""
        return self._ours

    def load(self, keys: Iterable[str], show: Show) -> None:
        """Read curves, and tell how far that has come."""
        wanted = [key for key in dict.fromkeys(keys) if key in self._known]
        for done, key in enumerate(wanted):
            show("reading curves", done, len(wanted))
            self.points(key)
        show("reading curves", len(wanted), len(wanted))

    def needed(self, key: str) -> list[str]:
        """All keys that say something about the evaluations of one, or with "" of any score."""
        if not key:
            return [*self.scores(), *self._alerts()]
        others = (*self.scores(), *self._alerts()) if self._is_score(key) else ()
        return [key, f"{key}{STDERR}", *others]

    def scores(self) -> list[str]:
        """The keys of all scores that a daemon has logged."""
        return [key for key in self.keys if self._is_score(key)]

    def points(self, key: str) -> Sequence[Point]:
        """The points of a key in the order of their timestamps, none where there is no such key."""
        if key not in self._read:
            self._read[key] = self._sink.read(self._run_id, key) if key in self._known else ()
        return self._read[key]

    def observations(
        self, key: str, *, higher_is_better: bool, rules: Iterable[str] = ()
    ) -> tuple[list[Observation], dict[int, datetime]]:
        """One observation for each step, the newest point of each; and the steps' times.

        A score that the daemon has logged for some steps only had no value at the others: those are the steps between
        its first and its last at which the daemon logged anything else, and all at which one of these rules, which are
        about this key, looked at it. Why it had none is not in the sink: the state is failed then.
        """
        place = key, higher_is_better, tuple(rules)
        if place not in self._observed:
            self._observed[place] = self._observations(*place)
        return self._observed[place]

    def _observations(
        self, key: str, higher_is_better: bool, rules: tuple[str, ...]
    ) -> tuple[list[Observation], dict[int, datetime]]:
        values = newest(self.points(key))
        errors = _errors(self.points(key), self.points(f"{key}{STDERR}"))
        moments = {step: point.timestamp_ms for step, point in values.items()}
        if self._is_score(key) and values:
            for step, moment in self._others(key, min(values), max(values), rules).items():
                moments.setdefault(step, moment)
        arrivals = {
            step: place for place, step in enumerate(sorted(moments, key=lambda step: (moments[step], step)), 1)
        }
        items = [
            _observation(step, arrivals[step], values.get(step), errors.get(step), higher_is_better=higher_is_better)
            for step in sorted(moments)
        ]
        return items, {step: from_ms(moment) for step, moment in moments.items()}

    def moments(self, key: str, *, rules: Iterable[str] = ()) -> list[tuple[int, datetime]]:
        """Step and time of every evaluation of a key, of "" those of any score, in the order of their times.

        A step that was written twice is there twice.
        """
        keys = [key] if key else self.scores()
        found = {(point.timestamp_ms, point.step) for each in keys for point in self.points(each)}
        steps = {step for _, step in found}
        if key and self._is_score(key) and steps:
            found |= {
                (at, step) for step, at in self._others(key, min(steps), max(steps), rules).items() if step not in steps
            }
        elif not key and steps:
            # An evaluation of which no score has a value leaves only what rules said. Those about time speak at
            # steps that are there already, or at 0 before there are any.
            alerts = [alert.removeprefix(ALERTS) for alert in self._alerts()]
            others = self._others("", 0, 0, alerts).items()
            found |= {(at, step) for step, at in others if step not in steps and step > 0}
        return [(step, from_ms(moment)) for moment, step in sorted(found)]

    def _others(self, key: str, first: int, last: int, rules: Iterable[str]) -> Mapping[int, int]:
        """Steps at which the daemon logged anything between two steps, and at which these rules looked at a score.

        With the time in milliseconds at which it first did.
        """
        own = {f"{ALERTS}{rule}" for rule in rules}
        found: dict[int, int] = {}
        for neighbour in (*self._together(key), *self._alerts()):
            for point in self.points(neighbour):
                if neighbour in own or first < point.step < last:
                    found[point.step] = min(point.timestamp_ms, found.get(point.step, point.timestamp_ms))
        return found

    def _together(self, key: str) -> list[str]:
        """The scores that were logged with this one: what the training job logs beside has times of its own."""
        own = {(point.step, point.timestamp_ms) for point in self.points(key)}
        return [
            other
            for other in self.scores()
            if other != key and any((point.step, point.timestamp_ms) in own for point in self.points(other))
        ]

    def _alerts(self) -> list[str]:
        return [key for key in self.keys if key.startswith(ALERTS)] if self._ours else []

    def _is_score(self, key: str) -> bool:
        return self._ours and key.startswith(f"{self._prefix}/") and not self._beside(key)

    def _beside(self, key: str) -> bool:
        """True for what belongs to another curve: a standard error, what a rule said."""
        return key.startswith(ALERTS) or (key.endswith(STDERR) and key.removesuffix(STDERR) in self._known)


def newest(points: Iterable[Point]) -> dict[int, Point]:
    """By step, the point with the newest timestamp: a step that is rewritten counts as it was written last."""
    found: dict[int, Point] = {}
    for point in points:
        if point.step not in found or point.timestamp_ms >= found[point.step].timestamp_ms:
            found[point.step] = point
    return found


def _errors(values: Sequence[Point], errors: Sequence[Point]) -> dict[int, float]:
    """By step, the standard error of its newest value: of a step that was written twice, only what came with it."""
    counts: dict[int, set[int]] = {}
    for point in values:
        counts.setdefault(point.step, set()).add(point.timestamp_ms)
    current = newest(values)
    fitting = [
        point
        for point in errors
        if point.step in current
        and math.isfinite(point.value)
        and point.value >= 0
        and (len(counts[point.step]) == 1 or point.timestamp_ms == current[point.step].timestamp_ms)
    ]
    return {step: point.value for step, point in newest(fitting).items()}


def _observation(
    step: int, arrival: int, point: Point | None, stderr: float | None, *, higher_is_better: bool
) -> Observation:
    finite = point is not None and math.isfinite(point.value)
    state, detail = ScoreState.OK, ""
    if point is None:
        state, detail = ScoreState.FAILED, "no value was logged"
    elif not finite:
        state, detail = ScoreState.NON_FINITE, f"{point.value} was logged"
    return Observation(
        id=arrival,
        step=step,
        value=point.value if point is not None and finite else None,
        stderr=stderr if finite else None,
        # Not in the sink: as if all were the same.
        images=0,
        higher_is_better=higher_is_better,
        state=state,
        detail=detail,
    )
