"""`state: any` fires when a metric has had no value for so many evaluations in a row."""

from __future__ import annotations

from collections.abc import Sequence

from metricwatch.config.rules import StateRule
from metricwatch.records import AlertState, ScoreState
from metricwatch.rules.judgements import StepState, calm
from metricwatch.rules.observations import Observation


def judge(rule: StateRule, series: Sequence[Observation]) -> list[StepState]:
    """The rule's state after each evaluation of a series ordered by step; at a step it depends on earlier ones alone.

    Pending while fewer than `for` evaluations in a row are in one of the rule's states, then firing, for the worse,
    until one has a value or is in a state that the rule does not name.
    """
    states: list[StepState] = []
    in_a_row = 0
    for item in series:
        if not rule.names(item.state):
            in_a_row = 0
            states.append(calm(item, _over(item)))
            continue
        in_a_row += 1
        reason = f"{item.state.value}: {item.detail}" if item.detail else item.state.value
        if in_a_row < rule.in_a_row:
            note = f"{in_a_row} of {rule.in_a_row} in a row: {reason}"
            states.append(StepState(id=item.id, step=item.step, state=AlertState.PENDING, note=note))
            continue
        times = "" if rule.in_a_row == 1 else f" for {rule.in_a_row} evaluations"
        states.append(
            StepState(
                id=item.id,
                step=item.step,
                state=AlertState.FIRING,
                direction="worse",
                note=reason,
                what=f"has no value{times}: {item.state.value}",
                detail=item.detail,
            )
        )
    return states


def _over(item: Observation) -> str:
    if item.state is ScoreState.OK:
        return "it has a value"
    return f"it is {item.state.value}, which the rule does not name"
