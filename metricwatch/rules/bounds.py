"""`above: 60` and `below: 0.4` hold where a metric is beyond a bound."""

from __future__ import annotations

from collections import deque

from metricwatch.config.rules import AboveRule, BelowRule
from metricwatch.records import Direction, ScoreState
from metricwatch.rules.judgements import Clear, Holds, Judge, Judgement, Unknown, points
from metricwatch.rules.numbers import apart, measured
from metricwatch.rules.observations import Observation


class BoundJudge(Judge):
    """Holds at a value strictly beyond the bound; with beyond_noise by more than so many of its standard errors.

    Above a bound is worse where lower is better, and better where higher is: below one it is the other way round. A
    value is held against the bound alone: it need not be comparable with those before it.
    """

    def __init__(self, rule: AboveRule | BelowRule) -> None:
        self._rule = rule
        # Of the evaluations in a row beyond the bound the last `for`: those that the alert shows.
        self._row: deque[Observation] = deque(maxlen=rule.in_a_row)

    def look(self, item: Observation) -> Judgement:
        rule = self._rule
        if item.state is not ScoreState.OK or item.value is None:
            return Unknown(note=f"no value: {item.state.value}", passed_over=True)
        beyond = item.value - rule.bound if rule.kind == "above" else rule.bound - item.value
        if not beyond > 0:
            self._row.clear()
            return Clear(note=f"it is not {rule.kind} {rule.bound:.6g}")
        detail = ""
        if rule.beyond_noise is not None:
            if item.stderr is None:
                self._row.clear()
                return Unknown(note=f"{rule.kind} {rule.bound:.6g}, but no standard error is known")
            if not beyond > rule.beyond_noise * item.stderr:
                self._row.clear()
                return Clear(
                    note=f"it is not {rule.kind} {rule.bound:.6g} by more than {rule.beyond_noise:g} standard errors"
                )
            if item.stderr > 0:
                detail = f"beyond the bound by {apart(beyond / item.stderr)} standard errors"
        self._row.append(item)
        return Holds(
            direction=self._direction(item),
            threshold=rule.bound,
            window=points(tuple(self._row)),
            what=self._what(item),
            detail=detail,
        )

    def _direction(self, item: Observation) -> Direction:
        return "better" if (self._rule.kind == "above") == item.higher_is_better else "worse"

    def _what(self, item: Observation) -> str:
        rule = self._rule
        bound, value = measured(rule.bound, None, other=item.value), measured(item.value, item.stderr, other=rule.bound)
        if rule.in_a_row == 1:
            return f"is {rule.kind} {bound}: {value}"
        return f"has been {rule.kind} {bound} for {rule.in_a_row} evaluations: {value}"
