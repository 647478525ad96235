"""From a series to states and episodes: pure functions, so that replay and the daemon cannot disagree.

Each kind of rule has a file with its judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metricwatch.config.rules import (
    AboveRule,
    BelowRule,
    MovesRule,
    NonfiniteRule,
    Rule,
    StaleRule,
    StateRule,
    ZScoreRule,
)
from metricwatch.records import AlertState, Direction, WindowPoint
from metricwatch.rules.bounds import BoundJudge
from metricwatch.rules.judgements import Judge, StepState
from metricwatch.rules.lifecycle import Lifecycle
from metricwatch.rules.moves import MovesJudge
from metricwatch.rules.no_value import NoValueJudge
from metricwatch.rules.observations import Observation
from metricwatch.rules.outliers import OutlierJudge


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
        """Start before the first evaluation. Raises ValueError for a rule about time: see metricwatch.rules.stale."""
        self._life = Lifecycle(_judge(rule), in_a_row=rule.in_a_row, warmup=rule.warmup, keep_firing=rule.keep_firing)
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
        self.state = state = self._life.next(item)
        on = state.state is AlertState.FIRING
        if self._fired is not None and not (on and state.direction == self._fired.direction):
            # A change of direction ends one episode and begins another.
            self._ended.append(_episode(self._fired, ended=state, reason=_reason(state)))
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
        case AboveRule() | BelowRule():
            return BoundJudge(rule)
        case ZScoreRule():
            return OutlierJudge(rule)
        case StateRule() | NonfiniteRule():
            return NoValueJudge(rule)
        case StaleRule():
            raise ValueError(f"rule {rule.name} looks at time, not at the evaluations of a series")


def _reason(ended: StepState) -> str:
    """Why an episode is over."""
    if ended.direction is None:
        return ended.note
    # It holds the other way.
    return f"it {ended.what}" if ended.what else f"the movement is now for the {ended.direction}"


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
