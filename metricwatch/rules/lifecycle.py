"""From a condition that holds or not to a rule that is inactive, pending or firing: `for`, `warmup`, `keep_firing`."""

from __future__ import annotations

from dataclasses import replace

from metricwatch.records import AlertState, Direction
from metricwatch.rules.judgements import Clear, Holds, Judge, Judgement, StepState, Unknown
from metricwatch.rules.observations import Observation


class Lifecycle:
    """The state of a rule at each evaluation of a series.

    Its condition must hold `for` evaluations in a row, in one direction, before it fires: until then it is pending. The
    first `warmup` evaluations are not shown to the judge. Once it fires it goes on for keep_firing evaluations after
    the condition has ceased to hold. Where nobody can tell, what fires goes on and what is pending starts over: an
    alert ends when it is seen to be over. An evaluation that the judge passes over changes nothing. When the condition
    holds in the other direction, the alert turns once that has held for long enough, or ends when the old direction
    has been clear for longer than keep_firing.
    """

    def __init__(self, judge: Judge, *, in_a_row: int, warmup: int, keep_firing: int) -> None:
        self._judge = judge
        self._in_a_row = in_a_row
        self._warmup = warmup
        self._keep_firing = keep_firing
        self._seen = 0
        # What it says while it fires, as of the last evaluation at which the condition held; None while it does not.
        self._firing: StepState | None = None
        # The same while it is pending.
        self._pending: StepState | None = None
        self._row = 0
        self._towards: Direction | None = None
        self._clear = 0

    def next(self, item: Observation) -> StepState:
        """What the rule says at the next evaluation."""
        self._seen += 1
        if self._seen <= self._warmup:
            return _calm(item, f"warming up: {self._seen} of {self._warmup}")
        found = self._judge.look(item)
        self._count(found)
        state = self._say(item, found)
        self._firing = state if state.state is AlertState.FIRING else None
        self._pending = state if state.state is AlertState.PENDING else None
        return state

    def _count(self, found: Judgement) -> None:
        """How often in a row the condition has held, and for how long the direction that fires has been clear."""
        if isinstance(found, Unknown) and found.passed_over:
            return
        if isinstance(found, Holds):
            goes_on = found.direction == self._towards
            self._row, self._towards = (self._row + 1 if goes_on else 1), found.direction
        else:
            self._row, self._towards = 0, None
        if isinstance(found, Unknown):
            return
        holds_on = isinstance(found, Holds) and self._firing is not None and found.direction == self._firing.direction
        self._clear = 0 if holds_on or self._firing is None else self._clear + 1

    def _say(self, item: Observation, found: Judgement) -> StepState:
        firing = self._firing
        match found:
            case Unknown():
                return self._as_before(item, found)
            case Clear(note=note):
                if firing is None or self._clear > self._keep_firing:
                    return _calm(item, note)
                return _on(firing, item, f"{self._kept}; {note}")
            case Holds():
                row = f"{self._row} of {self._in_a_row} in a row"
                if self._row >= self._in_a_row or (firing is not None and firing.direction == found.direction):
                    self._clear = 0
                    return _state(item, found, AlertState.FIRING, found.note)
                if firing is None or self._clear > self._keep_firing:
                    return _state(item, found, AlertState.PENDING, f"{row}: {found.note}" if found.note else row)
                return _on(firing, item, f"{self._kept}; for the {found.direction}: {row}")

    def _as_before(self, item: Observation, found: Unknown) -> StepState:
        if self._firing is not None:
            return _on(self._firing, item, f"still firing; {found.note}")
        if self._pending is not None and found.passed_over:
            return _on(self._pending, item, f"still {self._row} of {self._in_a_row} in a row; {found.note}")
        return _calm(item, found.note)

    @property
    def _kept(self) -> str:
        return f"kept firing, {self._clear} of {self._keep_firing}"


def _calm(item: Observation, note: str) -> StepState:
    return StepState(id=item.id, step=item.step, state=AlertState.INACTIVE, note=note, value=item.value)


def _on(firing: StepState, item: Observation, note: str) -> StepState:
    return replace(firing, id=item.id, step=item.step, value=item.value, note=note)


def _state(item: Observation, found: Holds, state: AlertState, note: str) -> StepState:
    return StepState(
        id=item.id,
        step=item.step,
        state=state,
        direction=found.direction,
        change=found.change,
        threshold=found.threshold,
        note=note,
        value=item.value,
        window=found.window,
        moved=found.moved,
        what=found.what,
        detail=found.detail,
    )
