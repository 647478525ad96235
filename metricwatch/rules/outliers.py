"""`z_score: 5, window: 20` holds where a metric lies far from where it has lain of late."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf

from metricwatch.config.rules import ZScoreRule
from metricwatch.records import Direction, ScoreState
from metricwatch.rules.comparable import obstacle
from metricwatch.rules.judgements import Clear, Holds, Judge, Judgement, Unknown, points
from metricwatch.rules.numbers import apart, measured
from metricwatch.rules.observations import Observation

# Of normal numbers the median absolute deviation times this is the standard deviation: 1 / Φ⁻¹(3/4). Rousseeuw and
# Croux, Alternatives to the Median Absolute Deviation, JASA 88 (1993); Iglewicz and Hoaglin, How to Detect and Handle
# Outliers (1993), whose modified z-score this is.
_CONSISTENT = 1.4826
# Of the median. Where no standard error is known, less than that counts as no spread at all.
_LEAST_SPREAD = 1e-3


class OutlierJudge(Judge):
    """Holds where |v − median| / s > z_score over the `window` comparable evaluations before this one.

    s is 1.4826·MAD, but at least the standard error: that of v, or the median of those in the window, whichever is
    more. Where none is known (or all are 0) it is at least 0.1% of the median, of the largest absolute value where the
    median is 0: without such a floor everything is an outlier to a history that hardly moved. The window starts anew as
    that of `moves` does, and while it fills there is nothing to judge by; one without a value is passed over. Outliers
    stay in the windows of later evaluations, where a median does not mind them as long as they are fewer than half.
    """

    def __init__(self, rule: ZScoreRule) -> None:
        self._rule = rule
        self._window: deque[Observation] = deque(maxlen=rule.window)

    def look(self, item: Observation) -> Judgement:
        if item.state is not ScoreState.OK or item.value is None:
            return Unknown(note=f"no value: {item.state.value}", passed_over=True)
        before = tuple(self._window)
        why_not = obstacle(before, item)
        if why_not:
            self._window.clear()
        self._window.append(item)
        if why_not or len(before) < self._rule.window:
            filling = f"window {0 if why_not else len(before)} of {self._rule.window}"
            return Unknown(note=f"not comparable: {why_not}; {filling}" if why_not else filling)
        return self._judge(before, item, item.value)

    def _judge(self, before: Sequence[Observation], item: Observation, value: float) -> Judgement:
        rule = self._rule
        values = [seen.value for seen in before if seen.value is not None]
        middle = median(values)
        spread = _CONSISTENT * median([abs(seen - middle) for seen in values])
        floor = _noise(before, item) or _LEAST_SPREAD * (abs(middle) or max(abs(seen) for seen in (*values, value)))
        deviation, scale = value - middle, max(spread, floor)
        # Not divided: both may be 0, and of the smallest numbers there are the floor is 0 too.
        if not abs(deviation) > rule.z_score * scale:
            return Clear(note=f"it is within {rule.z_score:g} robust standard deviations of the median, {middle:.5g}")
        direction: Direction = "better" if (deviation > 0) == item.higher_is_better else "worse"
        if rule.direction not in {"any", direction}:
            return Clear(note=f"it is an outlier, but for the {direction}")
        side, sign = ("above", 1.0) if deviation > 0 else ("below", -1.0)
        distance = abs(deviation) / scale if scale else inf
        because = ", which is its standard error" if scale > spread and _noise(before, item) else ""
        return Holds(
            direction=direction,
            threshold=middle + sign * rule.z_score * scale,
            window=points((*before, item)),
            what=(
                f"is {apart(distance)} robust standard deviations {side} the median of the last "
                f"{rule.window} evaluations, {measured(middle, None, other=value)}"
            ),
            detail=f"it is {measured(value, item.stderr, other=middle)}; one deviation is {scale:.3g}{because}",
        )


def median(values: Sequence[float]) -> float:
    """The middle of the values, or the mean of the two in the middle. There must be one."""
    ordered = sorted(values)
    half, odd = divmod(len(ordered), 2)
    return ordered[half] if odd else ordered[half - 1] / 2 + ordered[half] / 2


def _noise(before: Sequence[Observation], item: Observation) -> float:
    """The standard error to reckon with, 0 where none is known."""
    known = [seen.stderr for seen in before if seen.stderr is not None]
    return max(median(known) if known else 0.0, item.stderr or 0.0)
