"""What is said at one step: by a judge about a rule's condition, and then by the rule, whatever its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from metricwatch.records import AlertState, Direction, WindowPoint
from metricwatch.rules.observations import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """The condition holds, with what an alert would tell of it.

    Either a movement (change past threshold: window holds the evaluations looked at, moved the two between which the
    metric moved) or `what`, words for what happened, with their detail.
    """

    direction: Direction
    change: float | None = None
    threshold: float | None = None
    window: tuple[WindowPoint, ...] = ()
    moved: tuple[WindowPoint, ...] = ()
    what: str = ""
    detail: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear:
    """The condition does not hold; note says what was found."""

    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """There is too little to judge by; note says why. passed_over: as if this evaluation had not been."""

    note: str
    passed_over: bool = False


Judgement = Holds | Clear | Unknown


class Judge(ABC):
    """Looks at the evaluations of a series one after the other, in the order of their steps.

    What it says of one depends on that one and earlier ones alone. It says whether the condition holds there, and
    nothing of how long: see Lifecycle.
    """

    @abstractmethod
    def look(self, item: Observation) -> Judgement:
        """Whether the rule's condition holds at the next evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    """What a rule says at one step. While it is pending or firing it has a direction and what Holds tells."""

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


def points(items: Sequence[Observation]) -> tuple[WindowPoint, ...]:
    """The observations as an alert keeps them."""
    return tuple(
        WindowPoint(step=item.step, value=item.value, stderr=item.stderr) for item in items if item.value is not None
    )
