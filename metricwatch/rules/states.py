"""From a series to states and episodes: pure functions, so that replay and the daemon cannot disagree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from metricwatch.config.schema import MovesRule
from metricwatch.records import AlertState, Direction, ScoreState, WindowPoint
from metricwatch.rules.moves import movement
from metricwatch.rules.observations import Observation

# Image counts may differ by one skipped file or so: the Fréchet distance is biased by about 1/N.
IMAGE_COUNT_TOLERANCE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """What a rule says at one step.

    When it fires, window holds the evaluations it looked at and moved the two between which the metric moved.
    """

    id: int
    step: int
    state: AlertState
    direction: Direction | None = None
    change: float | None = None
    note: str = ""
    value: float | None = None
    window: tuple[WindowPoint, ...] = ()
    moved: tuple[WindowPoint, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """An unbroken stretch of firing in one direction. resolved_* are None while it lasts."""

    direction: Direction
    change: float
    window: tuple[WindowPoint, ...]
    moved: tuple[WindowPoint, ...]
    fired_step: int
    fired_id: int
    resolved_step: int | None = None
    resolved_id: int | None = None
    resolved_value: float | None = None
    reason: str = ""


def evaluate(rule: MovesRule, series: Sequence[Observation]) -> list[StepState]:
    """The rule's state after each evaluation of a series ordered by step.

    The state at a step depends on that step and earlier ones alone. An evaluation without a value, of another
    series, or with an image count more than 2% off the window's others is not comparable: the window starts anew.
    While it fills, what fired before goes on firing: an alert ends when it is seen to be over, not when nobody can
    tell.
    """
    states: list[StepState] = []
    window: list[Observation] = []
    for item in series:
        if item.state is not ScoreState.OK or item.value is None:
            window = []
            states.append(_unjudged(item, f"not comparable: {item.state.value}", states))
            continue
        kept = window[-(rule.across - 1) :]
        obstacle = _obstacle(kept, item)
        window = [item] if obstacle else [*kept, item]
        if len(window) < rule.across:
            filling = f"window {len(window)} of {rule.across}"
            note = f"not comparable: {obstacle}; {filling}" if obstacle else filling
            states.append(_unjudged(item, note, states))
            continue
        found = movement(rule, window)
        if found is None:
            note = "moved no further than the bound"
            states.append(StepState(id=item.id, step=item.step, state=AlertState.INACTIVE, note=note, value=item.value))
            continue
        states.append(
            StepState(
                id=item.id,
                step=item.step,
                state=AlertState.FIRING,
                direction=found.direction,
                change=found.change,
                value=item.value,
                window=_points(window),
                moved=_points((found.start, found.end)),
            )
        )
    return states


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
    if fired.direction is None or fired.change is None:
        raise ValueError(f"step {fired.step} is firing without a direction")
    return Episode(
        direction=fired.direction,
        change=fired.change,
        window=fired.window,
        moved=fired.moved,
        fired_step=fired.step,
        fired_id=fired.id,
        resolved_step=ended.step if ended else None,
        resolved_id=ended.id if ended else None,
        resolved_value=ended.value if ended else None,
        reason=reason,
    )


def _unjudged(item: Observation, note: str, before: Sequence[StepState]) -> StepState:
    """The state where the window does not suffice for a judgement: as before, and the note says why."""
    if before and before[-1].state is AlertState.FIRING:
        return replace(before[-1], id=item.id, step=item.step, value=item.value, note=f"still firing; {note}")
    return StepState(id=item.id, step=item.step, state=AlertState.INACTIVE, note=note, value=item.value)


def _points(items: Sequence[Observation]) -> tuple[WindowPoint, ...]:
    return tuple(
        WindowPoint(step=item.step, value=item.value, stderr=item.stderr) for item in items if item.value is not None
    )


def _obstacle(window: Sequence[Observation], item: Observation) -> str:
    """Why an evaluation cannot be compared with those in the window, or ""."""
    if not window:
        return ""
    if item.series != window[-1].series:
        return "what the score depends on has changed (weights, protocol, precision or reference)"
    counts = [seen.images for seen in (*window, item)]
    if max(counts) - min(counts) > IMAGE_COUNT_TOLERANCE * max(counts):
        return f"{item.images} images after {window[-1].images}"
    return ""
