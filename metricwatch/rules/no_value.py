"""`state: any` fires when a metric has had no value for so many evaluations in a row."""

from __future__ import annotations

from metricwatch.config.rules import StateRule
from metricwatch.records import AlertState, ScoreState
from metricwatch.rules.judgements import Judge, StepState, calm
from metricwatch.rules.observations import Observation


class NoValueJudge(Judge):
    """The rule's state after each evaluation of a series; at a step it depends on earlier ones alone.

    Pending while fewer than `for` evaluations in a row are in one of the rule's states, then firing, for the worse,
    until one has a value or is in a state that the rule does not name.
    """

    def __init__(self, rule: StateRule) -> None:
        self._rule = rule
        self._in_a_row = 0

    def next(self, item: Observation, before: StepState | None) -> StepState:  # noqa: ARG002 - its count says it all
        if not self._rule.names(item.state):
            self._in_a_row = 0
            return calm(item, _over(item))
        self._in_a_row += 1
        reason = f"{item.state.value}: {item.detail}" if item.detail else item.state.value
        wanted = self._rule.in_a_row
        if self._in_a_row < wanted:
            note = f"{self._in_a_row} of {wanted} in a row: {reason}"
            return StepState(id=item.id, step=item.step, state=AlertState.PENDING, note=note)
        times = "" if wanted == 1 else f" for {wanted} evaluations"
        return StepState(
            id=item.id,
            step=item.step,
            state=AlertState.FIRING,
            direction="worse",
            note=reason,
            what=f"has no value{times}: {item.state.value}",
            detail=item.detail,
        )


def _over(item: Observation) -> str:
    if item.state is ScoreState.OK:
        return "it has a value"
    return f"it is {item.state.value}, which the rule does not name"
