"""The rules stage: recompute what new scores may have changed, and write down the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from metricwatch.clock import Clock
from metricwatch.config.rules import Rule, StaleRule
from metricwatch.records import Run
from metricwatch.rules.definition import definition
from metricwatch.rules.judgements import StepState
from metricwatch.rules.observations import observation
from metricwatch.rules.states import Walk
from metricwatch.rules.watching_time import TimeWatch
from metricwatch.rules.writing import Pen
from metricwatch.store.alerts import Alerts, RuleMark
from metricwatch.store.db import Database
from metricwatch.store.scores import Scores


class Rules:
    """The only writer of rule states and alerts.

    What a rule says is a function of the whole series: a late or rewritten evaluation has it walked anew, and only what
    differs from the ledger is written, and sent. While evaluations come in order the walk goes on where it was. What
    all rules say of a run in one turn is written at one go, so that alerts of one evaluation are seen together.
    """

    def __init__(
        self, db: Database, rules: Sequence[Rule], runs: Sequence[Run], sinks: Sequence[str], clock: Clock
    ) -> None:
        self._db = db
        self._rules = rules
        self._runs = runs
        self._clock = clock
        self._alerts = Alerts(db)
        self._scores = Scores(db)
        self._pen = Pen(db, sinks, clock)
        self._time = TimeWatch(db, self._pen, clock)
        # By run: the rules as they are for it, those about its curves and those about time.
        self._of_curves: dict[str, list[Rule]] = {run.key: [] for run in runs}
        self._of_time: dict[str, list[StaleRule]] = {run.key: [] for run in runs}
        for run in runs:
            for rule in rules:
                match rule.for_run(run.name):
                    case None:
                        pass
                    case StaleRule() as stale:
                        self._of_time[run.key].append(stale)
                    case of_curve:
                        self._of_curves[run.key].append(of_curve)
        # By run and rule: how far it has come along a series that has only been added to.
        self._walks: dict[tuple[str, str], Walk] = {}

    def start(self) -> None:
        """Note which rules are new: what they would have said about older scores is history, not news."""
        names = {rule.name for rule in self._rules}
        with self._db.transaction("rule-marks"):
            self._alerts.forget_other_rules(names)
            for run in self._runs:
                of_run: list[Rule] = [*self._of_curves[run.key], *self._of_time[run.key]]
                for rule in of_run:
                    self._begin(run, rule)
                for name in sorted(names - {rule.name for rule in of_run}):
                    self._retire(run, name, "the rule is off for this run")
                    self._alerts.forget_mark(run.key, name)
            for alert in self._alerts.firing():
                if alert.rule not in names:
                    self._end(alert.id, "the rule was removed")
        self._time.start()

    def _begin(self, run: Run, rule: Rule) -> None:
        digest, mark = definition(rule), self._alerts.mark(run.key, rule.name)
        if mark is not None and mark.definition == digest:
            return
        if mark is not None:
            self._retire(run, rule.name, "the rule was changed")
        if isinstance(rule, StaleRule):
            newest = self._time.newest_id(run.key, rule)
            mark = RuleMark(definition=digest, since_score=newest, up_to_score=newest)
        else:
            newest = self._scores.newest_id(run.key, rule.metric)
            mark = RuleMark(definition=digest, since_score=newest, up_to_score=0)
        self._alerts.set_mark(run.key, rule.name, mark)

    def _retire(self, run: Run, rule: str, reason: str) -> None:
        """Forget what a rule said in its earlier form. Whoever was told that it fires hears it from the new one."""
        self._alerts.forget_states(run.key, rule)
        for alert in self._alerts.firing_of(run.key, rule):
            self._end(alert.id, reason)

    def _end(self, alert: int, reason: str) -> None:
        self._alerts.resolve(alert, step=None, value=None, reason=reason, now=self._clock.now(), announce=False)

    def tick(self) -> int:
        """Bring every rule up to date with the scores; returns how many rules had something new to look at."""
        is_time = any(self._of_time.values()) and self._time.is_time()
        return sum(self._turn(run, is_time=is_time) for run in self._runs)

    def behind(self) -> bool:
        """True while scores have arrived that a rule has not looked at."""
        return any(self._overtaken(run, rule) is not None for run in self._runs for rule in self._of_curves[run.key])

    def _turn(self, run: Run, *, is_time: bool) -> int:
        due = [(rule, mark) for rule in self._of_curves[run.key] if (mark := self._overtaken(run, rule))]
        looks = [self._time.look(run, rule) for rule in self._of_time[run.key]] if is_time else []
        news = [each for each in looks if each is not None]
        if not due and not news:
            return 0
        walks = {}
        with self._db.transaction("rule"):
            for rule, mark in due:
                walks[run.key, rule.name] = self._evaluate(run, rule, mark)
            for each in news:
                self._time.write(run, each)
        self._walks.update(walks)
        return len(due) + len(news)

    def _overtaken(self, run: Run, rule: Rule) -> RuleMark | None:
        """How far the rule has come, or None when nothing has arrived since."""
        mark = self._alerts.mark(run.key, rule.name)
        newest = self._scores.newest_id(run.key, rule.metric)
        return mark if mark is not None and newest > mark.up_to_score else None

    def _evaluate(self, run: Run, rule: Rule, mark: RuleMark) -> Walk:
        """Look at what has arrived, in the order of its arrival: at once or one by one, it comes to the same."""
        # Taken out until all is committed: a walk that has gone further than the ledger is of no use.
        walk = self._walks.pop((run.key, rule.name), None)
        if mark.up_to_score < mark.since_score:
            # The rule is new here: it takes in at one go what was there before it.
            mark = replace(mark, up_to_score=mark.since_score)
            walk, states = self._walk(run, rule, mark.since_score)
            self._pen.write(run, rule, mark, walk, states, in_order=False)
        elif walk is None:
            walk, _ = self._walk(run, rule, mark.up_to_score)
            walk.settle()
        for point in self._scores.arrived(run.key, rule.metric, after=mark.up_to_score):
            mark = replace(mark, up_to_score=point.id)
            in_order = walk.at is None or point.step > walk.at.step
            if in_order:
                states = [walk.go(observation(point))]
            else:
                walk, states = self._walk(run, rule, point.id)
            self._pen.write(run, rule, mark, walk, states, in_order=in_order)
        return walk

    def _walk(self, run: Run, rule: Rule, up_to: int) -> tuple[Walk, list[StepState]]:
        """A walk along the series as it was when the score `up_to` had arrived, and what the rule said on the way."""
        walk = Walk(rule)
        return walk, [walk.go(observation(point)) for point in self._scores.series(run.key, rule.metric, up_to=up_to)]
