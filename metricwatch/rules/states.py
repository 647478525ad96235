"""From a series to states and episodes: pure functions, so that replay and the daemon cannot disagree.

Each kind of rule has a file with a function judge(rule, series).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metricwatch.config.rules import MovesRule, Rule, StateRule
from metricwatch.records import AlertState, Direction, WindowPoint
from metricwatch.rules import moves, no_value
from metricwatch.rules.judgements import StepState
from metricwatch.rules.observations import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """An unbroken stretch of firing in one direction. resolved_* are None while it lasts.

    Without a movement, change and threshold are 0, and `what` says what happened.
    """

    direction: Direction
    change: float
    threshold: float
    window: tuple[WindowPoint, ...]
    moved: tuple[WindowPoint, ...]
    what: str
    detail: str
    fired_step: int
    fired_id: int
    resolved_step: int | None = None
    resolved_id: int | None = None
    resolved_value: float | None = None
    reason: str = ""


def evaluate(rule: Rule, series: Sequence[Observation]) -> list[StepState]:
    """The rule's state after each evaluation of a series ordered by step."""
    match rule:
        case MovesRule():
            return moves.judge(rule, series)
        case StateRule():
            return no_value.judge(rule, series)


def episodes(states: Sequence[StepState]) -> list[Episode]:
    """The stretches of firing, oldest first. A change of direction ends one and begins another."""
    found: list[Episode] = []
    current: StepState | None = None
    for state in states:
        if current is not None and state.direction != current.direction:
            reason = state.note or f"the movement is now for the {state.direction}"
            found.append(_episode(current, ended=state, reason=reason))
            current = None
        if current is None and state.state is AlertState.FIRING:
            current = state
    if current is not None:
        found.append(_episode(current))
    return found


def _episode(fired: StepState, ended: StepState | None = None, reason: str = "") -> Episode:
    if fired.direction is None:
        raise ValueError(f"step {fired.step} is firing without a direction")
    return Episode(
        direction=fired.direction,
        change=fired.change or 0.0,
        threshold=fired.threshold or 0.0,
        window=fired.window,
        moved=fired.moved,
        what=fired.what,
        detail=fired.detail,
        fired_step=fired.step,
        fired_id=fired.id,
        resolved_step=ended.step if ended else None,
        resolved_id=ended.id if ended else None,
        resolved_value=ended.value if ended else None,
        reason=reason,
    )
