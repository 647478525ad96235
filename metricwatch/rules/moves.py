"""`moves: 10%, across: 5` holds where a metric moved by more than a bound within a window of evaluations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import copysign, hypot, isfinite
from sys import float_info

from metricwatch.config.rules import MovesRule
from metricwatch.records import Direction, ScoreState
from metricwatch.rules.comparable import obstacle
from metricwatch.rules.judgements import Clear, Holds, Judge, Judgement, Unknown, points
from metricwatch.rules.observations import Observation


class MovesJudge(Judge):
    """Holds where the metric moved past the bound within the window that ends at the evaluation.

    An evaluation of another series, of other pairs, or with an image count more than 2% off the window's others is not
    comparable: the window starts anew, and while it fills there is nothing to judge by. One without a value is passed
    over: what was before it can be compared with what follows, and a break often begins with one that fails.
    """

    def __init__(self, rule: MovesRule) -> None:
        self._rule = rule
        self._whatever_noise = rule.model_copy(update={"beyond_noise": None})
        self._window: list[Observation] = []

    def look(self, item: Observation) -> Judgement:
        if item.state is not ScoreState.OK or item.value is None:
            return Unknown(note=f"no value: {item.state.value}", passed_over=True)
        kept = self._window[-(self._rule.across - 1) :]
        why_not = obstacle(kept, item)
        self._window = [item] if why_not else [*kept, item]
        if len(self._window) < self._rule.across:
            filling = f"window {len(self._window)} of {self._rule.across}"
            return Unknown(note=f"not comparable: {why_not}; {filling}" if why_not else filling)
        found = movement(self._rule, self._window)
        if found is None:
            return self._unless_noise_is_unknown() or Clear(note="moved no further than the bound")
        return Holds(
            direction=found.direction,
            change=found.change,
            threshold=self._rule.moves,
            window=points(self._window),
            moved=points((found.start, found.end)),
        )

    def _unless_noise_is_unknown(self) -> Unknown | None:
        """Whether it moved past the bound, and only cannot be said to be beyond the noise."""
        if self._rule.beyond_noise is None or all(item.stderr is not None for item in self._window):
            return None
        found = movement(self._whatever_noise, self._window)
        if found is None or (self._rule.mode != "each" and None not in {found.start.stderr, found.end.stderr}):
            return None
        return Unknown(note="moved past the bound, but no standard error is known")


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """A movement past the bound, from one evaluation to another.

    change is signed (positive: the value rose), as a fraction of v1.
    """

    direction: Direction
    change: float
    start: Observation
    end: Observation


@dataclass(frozen=True, slots=True)
class _Step:
    """From one evaluation of the window to a later one; base is what the difference is measured against."""

    start: Observation
    end: Observation
    base: float

    @property
    def difference(self) -> float:
        return _value(self.end) - _value(self.start)

    @property
    def stderr(self) -> float | None:
        if self.start.stderr is None or self.end.stderr is None:
            return None
        return hypot(self.start.stderr, self.end.stderr)


def movement(rule: MovesRule, window: Sequence[Observation]) -> Movement | None:
    """The movement that the rule sees in a full window v1…vn of comparable evaluations, or None.

    range: (max − min) / |v1| > bound, so some later value is that far from some earlier one. When it moved far
    enough both ways, the worse way counts. net: |vn − v1| / |v1| > bound. each: every step from one evaluation to
    the next is above the bound, relative to the earlier of the two. A window that starts at 0, or so near to it that
    the fraction would be no finite number, is measured against its largest absolute value: a fraction of 0 means
    nothing.
    """
    candidates = [found for way in _ways(rule) if (found := _move(rule, window, way)) is not None]
    return candidates[0] if candidates else None


def _ways(rule: MovesRule) -> tuple[Direction, ...]:
    # Worse first: a window that improved and then broke is bad news.
    return ("worse", "better") if rule.direction == "any" else (rule.direction,)


def _move(rule: MovesRule, window: Sequence[Observation], direction: Direction) -> Movement | None:
    rises = (direction == "better") == window[0].higher_is_better
    sign = 1.0 if rises else -1.0
    steps = _MODES[rule.mode](window, sign, rule.direction == "any")
    if not steps:
        return None
    for step in steps:
        if not abs(step.difference) > rule.moves * step.base:
            return None
        if rule.beyond_noise is not None and not _beyond(step, rule.beyond_noise):
            return None
    start, end = steps[0].start, steps[-1].end
    change = (_value(end) - _value(start)) / _base(window, window[0])
    if not isfinite(change):
        change = copysign(float_info.max, change)
    return Movement(direction=direction, change=change, start=start, end=end)


def _range(window: Sequence[Observation], sign: float, _any: bool) -> list[_Step]:
    """The largest excursion in one direction, from an earlier evaluation to a later one."""
    pairs = [(a, b) for i, a in enumerate(window) for b in window[i + 1 :]]
    first, last = max(pairs, key=lambda pair: sign * (_value(pair[1]) - _value(pair[0])))
    return _towards([_step(window, window[0], first, last)], sign)


def _net(window: Sequence[Observation], sign: float, _any: bool) -> list[_Step]:
    return _towards([_step(window, window[0], window[0], window[-1])], sign)


def _each(window: Sequence[Observation], sign: float, any_direction: bool) -> list[_Step]:
    steps = [_step(window, a, a, b) for a, b in pairwise(window)]
    if any_direction:
        net = _value(window[-1]) - _value(window[0])
        # The steps may go either way; the whole window's movement says which way is meant.
        return steps if sign * net > 0 or (net == 0 and sign == _worse_sign(window)) else []
    return _towards(steps, sign)


_MODES: dict[str, Callable[[Sequence[Observation], float, bool], list[_Step]]] = {
    "range": _range,
    "net": _net,
    "each": _each,
}


def _towards(steps: list[_Step], sign: float) -> list[_Step]:
    return steps if all(sign * step.difference > 0 for step in steps) else []


def _worse_sign(window: Sequence[Observation]) -> float:
    return -1.0 if window[0].higher_is_better else 1.0


def _step(window: Sequence[Observation], base: Observation, first: Observation, last: Observation) -> _Step:
    return _Step(start=first, end=last, base=_base(window, base))


def _base(window: Sequence[Observation], base: Observation) -> float:
    own, largest = abs(_value(base)), max(abs(_value(item)) for item in window)
    return own if own >= float_info.min and isfinite(largest / own) else largest


def _beyond(step: _Step, multiple: float) -> bool:
    # Without a standard error nothing can be said to be beyond it.
    return step.stderr is not None and abs(step.difference) > multiple * step.stderr


def _value(item: Observation) -> float:
    if item.value is None:
        raise ValueError(f"step {item.step} has no value: only comparable evaluations enter a window")
    return item.value
