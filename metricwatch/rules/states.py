"""From a series to states and episodes: pure functions, so that replay and the daemon cannot disagree.

Each kind of rule has a file with its judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metricwatch.config.rules import MovesRule, Rule, StateRule
from metricwatch.records import AlertState, Direction, WindowPoint
from metricwatch.rules.judgements import Judge, StepState
from metricwatch.rules.moves import MovesJudge
from metricwatch.rules.no_value import NoValueJudge
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


class Walk:
    """A rule on its way along a series: what it says at each evaluation, and the episodes so far.

    It keeps the window and the episodes, not the series, and so that going on costs the same after ten thousand
    evaluations as after ten. There is no way back: what arrives late needs a new walk.
    """

    def __init__(self, rule: Rule) -> None:
        self._judge = _judge(rule)
        self._fired: StepState | None = None
        self._ended: list[Episode] = []
        self._settled = 0
        # The last evaluation and what the rule said there; None before the first.
        self.at: Observation | None = None
        self.state: StepState | None = None

    def go(self, item: Observation) -> StepState:
        """Look at the next evaluation. Raises ValueError for one whose step does not follow the last."""
        if self.at is not None and item.step <= self.at.step:
            raise ValueError(f"step {item.step} comes after step {self.at.step} in a series ordered by step")
        self.at = item
        self.state = state = self._judge.next(item, self.state)
        if self._fired is not None and state.direction != self._fired.direction:
            # A change of direction ends one episode and begins another.
            reason = state.note or f"the movement is now for the {state.direction}"
            self._ended.append(_episode(self._fired, ended=state, reason=reason))
            self._fired = None
        if self._fired is None and state.state is AlertState.FIRING:
            self._fired = state
        return state

    def episodes(self) -> list[Episode]:
        """The stretches of firing since the last settle(), oldest first. One that lasted then is among them."""
        ended = self._ended[self._settled :]
        return [*ended, _episode(self._fired)] if self._fired is not None else ended

    def settle(self) -> None:
        """What episodes() says is written down: those that are over are not asked for again."""
        self._settled = len(self._ended)


def evaluate(rule: Rule, series: Sequence[Observation]) -> list[StepState]:
    """The rule's state after each evaluation of a series ordered by step."""
    walk = Walk(rule)
    return [walk.go(item) for item in series]


def _judge(rule: Rule) -> Judge:
    match rule:
        case MovesRule():
            return MovesJudge(rule)
        case StateRule():
            return NoValueJudge(rule)


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
