"""The rules of one run look at what has arrived, in the order of its arrival, as far as the time allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from metricwatch.clock import Clock
from metricwatch.config.rules import Rule
from metricwatch.records import Run
from metricwatch.rules.judgements import StepState
from metricwatch.rules.observations import Observation, observation
from metricwatch.rules.states import Walk
from metricwatch.rules.writing import Pen
from metricwatch.store.alerts import RuleMark
from metricwatch.store.scores import Scores


@dataclass(slots=True, kw_only=True)
class Due:
    """A rule with something to look at. walk None: it is to be walked along what it has seen already."""

    rule: Rule
    mark: RuleMark
    walk: Walk | None

    @property
    def is_new(self) -> bool:
        """True for a rule, or a form of it, that has not said anything yet."""
        return self.mark.up_to_score < self.mark.since_score


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arrival:
    revision: int
    item: Observation


class CatchUp:
    """Evaluation by evaluation, all rules of each: at once or one by one, it comes to the same.

    What an evaluation that follows the others has the rules say is never cut in two; after `ends` on the monotonic
    clock no other is begun. One that is late, or a rule that is new, means many steps for each rule: there the cut may
    be between rules. Something is always done.
    """

    def __init__(self, scores: Scores, pen: Pen, run: Run, due: Sequence[Due], clock: Clock, *, ends: float) -> None:
        self._scores = scores
        self._pen = pen
        self._run = run
        self._due = due
        self._clock = clock
        self._ends = ends
        # What was read, for all rules on a metric: its series as of a score, and what came after one.
        self._series: dict[str, tuple[int, list[Observation]]] = {}
        self._arrived: dict[tuple[str, int], list[_Arrival]] = {}
        self._done = 0

    def prepare(self) -> bool:
        """Walk each rule as far as it has come before, which the first turn of a daemon has to; False: not all yet."""
        for each in self._due:
            if each.walk is not None or each.is_new:
                continue
            if self._done and self._is_over():
                return False
            each.walk, _ = self._walk(each.rule, each.mark.up_to_score)
            each.walk.settle()
            self._done += 1
        self._done = 0
        return True

    def write(self) -> bool:
        """Look at what has arrived and write what follows; False: not all of it yet. Joins a transaction."""
        waiting: list[tuple[Due, list[_Arrival]]] = []
        for each in self._due:
            if each.is_new:
                if self._done and self._is_over():
                    return False
                self._take_in(each)
            waiting.append((each, self._after(each)))
        at = [0] * len(waiting)
        while True:
            ahead = [
                (arrived[place].item.id, number)
                for number, ((_, arrived), place) in enumerate(zip(waiting, at, strict=True))
                if place < len(arrived)
            ]
            if not ahead:
                return True
            if self._done and self._is_over():
                return False
            _, leader = min(ahead)
            oldest = waiting[leader][1][at[leader]]
            for _, number in ahead:
                each, arrived = waiting[number]
                found = arrived[at[number]]
                # The scores of one evaluation have ids of their own.
                if (found.item.step, found.revision) != (oldest.item.step, oldest.revision):
                    continue
                if not self._look(each, found.item):
                    return False
                at[number] += 1

    def _look(self, each: Due, item: Observation) -> bool:
        """False when there is no time left for one that is late."""
        walk = each.walk or Walk(each.rule)
        in_order = walk.at is None or item.step > walk.at.step
        if not in_order and self._done and self._is_over():
            return False
        if in_order:
            states = [walk.go(item)]
        else:
            # What a rule says of a step depends on earlier ones alone: those before it stay as they are.
            walk, states = self._walk(each.rule, item.id, since_step=item.step)
        each.walk, each.mark = walk, replace(each.mark, up_to_score=item.id)
        self._pen.write(self._run, each.rule, each.mark, walk, states, in_order=in_order)
        self._done += 1
        return True

    def _take_in(self, each: Due) -> None:
        """The rule is new here: it takes in at one go what was there before it."""
        each.mark = replace(each.mark, up_to_score=each.mark.since_score)
        each.walk, states = self._walk(each.rule, each.mark.since_score)
        self._pen.write(self._run, each.rule, each.mark, each.walk, states, in_order=False, first=True)
        self._done += 1

    def _walk(self, rule: Rule, up_to: int, *, since_step: int = 0) -> tuple[Walk, list[StepState]]:
        """A walk along the series as it was when the score `up_to` had arrived, and what the rule said since a step."""
        seen, series = self._series.get(rule.metric, (-1, []))
        if seen != up_to:
            series = [observation(point) for point in self._scores.series(self._run.key, rule.metric, up_to=up_to)]
            self._series[rule.metric] = up_to, series
        walk = Walk(rule)
        states = [walk.go(item) for item in series]
        return walk, [state for state in states if state.step >= since_step]

    def _after(self, each: Due) -> list[_Arrival]:
        key = each.rule.metric, each.mark.up_to_score
        if key not in self._arrived:
            self._arrived[key] = [
                _Arrival(revision=point.revision, item=observation(point))
                for point in self._scores.arrived(self._run.key, key[0], after=key[1])
            ]
        return self._arrived[key]

    def _is_over(self) -> bool:
        return self._clock.monotonic() >= self._ends
