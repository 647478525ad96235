"""`state: any` and `nonfinite: true` hold where a metric has no value, for one of the reasons that the rule names."""

from __future__ import annotations

from metricwatch.config.rules import NonfiniteRule, StateRule
from metricwatch.records import ScoreState
from metricwatch.rules.judgements import Clear, Holds, Judge, Judgement
from metricwatch.rules.observations import Observation


class NoValueJudge(Judge):
    """Holds, for the worse, until an evaluation has a value or is in a state that the rule does not name."""

    def __init__(self, rule: StateRule | NonfiniteRule) -> None:
        self._rule = rule

    def look(self, item: Observation) -> Judgement:
        if not self._rule.names(item.state):
            return Clear(note=_over(item))
        reason = f"{item.state.value}: {item.detail}" if item.detail else item.state.value
        wanted = self._rule.in_a_row
        times = "" if wanted == 1 else f" for {wanted} evaluations"
        return Holds(
            direction="worse",
            note=reason,
            what=f"has no value{times}: {item.state.value}",
            detail=item.detail,
        )


def _over(item: Observation) -> str:
    if item.state is ScoreState.OK:
        return "it has a value"
    return f"it is {item.state.value}, which the rule does not name"
