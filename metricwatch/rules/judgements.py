"""What a rule says at one step, whatever its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from metricwatch.records import AlertState, Direction, WindowPoint
from metricwatch.rules.observations import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """What a rule says at one step.

    When it fires it has a direction, and either a movement (change past threshold: window holds the evaluations it
    looked at, moved the two between which the metric moved) or `what`, words for what happened, with their detail.
    """

    id: int
    step: int
    state: AlertState
    direction: Direction | None = None
    change: float | None = None
    threshold: float | None = None
    note: str = ""
    value: float | None = None
    window: tuple[WindowPoint, ...] = ()
    moved: tuple[WindowPoint, ...] = ()
    what: str = ""
    detail: str = ""


class Judge(ABC):
    """Looks at the evaluations of a series one after the other, in the order of their steps."""

    @abstractmethod
    def next(self, item: Observation, before: StepState | None) -> StepState:
        """What the rule says at this evaluation; before is what it said at the one before, None at the first."""


def calm(item: Observation, note: str) -> StepState:
    """The state where a rule looked and found nothing."""
    return StepState(id=item.id, step=item.step, state=AlertState.INACTIVE, note=note, value=item.value)


def unjudged(item: Observation, note: str, before: StepState | None) -> StepState:
    """The state where there is too little to judge by: as before, and the note says why."""
    if before is not None and before.state is AlertState.FIRING:
        return replace(before, id=item.id, step=item.step, value=item.value, note=f"still firing; {note}")
    return calm(item, note)


def points(items: Sequence[Observation]) -> tuple[WindowPoint, ...]:
    """The observations as an alert keeps them."""
    return tuple(
        WindowPoint(step=item.step, value=item.value, stderr=item.stderr) for item in items if item.value is not None
    )
