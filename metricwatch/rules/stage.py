"""The rules stage: recompute what new scores may have changed, and write down the difference."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from metricwatch.clock import Clock
from metricwatch.config.rules import Rule, StaleRule
from metricwatch.records import Alert, Run
from metricwatch.rules.catching_up import CatchUp, Due
from metricwatch.rules.definition import definition
from metricwatch.rules.states import Walk
from metricwatch.rules.watching_time import TimeWatch
from metricwatch.rules.writing import CHANGED, OFF, REMOVED, Pen
from metricwatch.store.alerts import Alerts, RuleMark
from metricwatch.store.arrivals import Arrivals
from metricwatch.store.db import Database
from metricwatch.store.scores import Scores

# A turn ends about then, and what is left waits for the next: other stages want the ledger, too.
_TURN_SECONDS = 2.0


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
        self._runs: list[Run] = []
        self._clock = clock
        self._alerts = Alerts(db)
        self._arrivals = Arrivals(db)
        self._scores = Scores(db)
        self._pen = Pen(db, sinks, clock)
        self._time = TimeWatch(db, self._pen, clock)
        # By run: the rules as they are for it, those about its curves and those about time.
        self._of_curves: dict[str, list[Rule]] = {}
        self._of_time: dict[str, list[StaleRule]] = {}
        for run in runs:
            self._take_up(run)
        # By run and rule: how far it has come along a series that has only been added to.
        self._walks: dict[tuple[str, str], Walk] = {}
        # The newest evaluation when all rules had looked at all, and the run with which the next turn begins.
        self._caught_up = -1
        self._turn_of = 0

    @property
    def all_scored(self) -> bool:
        """True for `run --once` when it has scored what is on disk: nothing is watched, so the calendar counts.

        A run is stale then when its last evaluation is that long ago, whether or not anybody watched.
        """
        return self._time.by_calendar

    @all_scored.setter
    def all_scored(self, value: bool) -> None:
        self._time.by_calendar = value

    def start(self) -> None:
        """Note which rules are new: what they would have said about older scores is history, not news.

        What fires of rules that are gone is over, and whoever was told hears it; of a rule that was changed it waits
        for what the new form says.
        """
        names = {rule.name for rule in self._rules}
        with self._db.transaction("rule-marks"):
            known = {*self._alerts.marked(), *((alert.run, alert.rule) for alert in self._alerts.firing())}
            for run_key, name in sorted(known):
                if name not in names:
                    self._drop(run_key, name, REMOVED)
            self._mark(self._runs, known)
        self._time.start()

    def watch(self, runs: Sequence[Run]) -> None:
        """Judge these runs, too, from now on. A second call for the same runs does no harm."""
        added = {run.key for run in runs}
        with self._db.transaction("rule-marks"):
            known = {
                *(mark for mark in self._alerts.marked() if mark[0] in added),
                *((alert.run, alert.rule) for alert in self._alerts.firing() if alert.run in added),
            }
            for run in runs:
                if run.key not in self._of_curves:
                    self._take_up(run)
            self._mark(runs, known)
        # What they have in the ledger from earlier days is still to be looked at.
        self._caught_up = -1

    def _take_up(self, run: Run) -> None:
        of_curves: list[Rule] = []
        of_time: list[StaleRule] = []
        for rule in self._rules:
            match rule.for_run(run.name):
                case None:
                    pass
                case StaleRule() as stale:
                    of_time.append(stale)
                case of_curve:
                    of_curves.append(of_curve)
        # Whoever goes over the runs in another thread finds all that belongs to each.
        self._of_time[run.key] = of_time
        self._of_curves[run.key] = of_curves
        self._runs.append(run)

    def _mark(self, runs: Sequence[Run], known: Collection[tuple[str, str]]) -> None:
        """Note where the rules of these runs begin; known are those of which the ledger holds something."""
        names = {rule.name for rule in self._rules}
        for run in runs:
            of_run: list[Rule] = [*self._of_curves[run.key], *self._of_time[run.key]]
            for rule in of_run:
                self._begin(run, rule)
            for name in sorted(names - {rule.name for rule in of_run}):
                if (run.key, name) in known:
                    self._drop(run.key, name, OFF)

    def _drop(self, run: str, rule: str, reason: str) -> None:
        self._pen.retire(run, rule, reason)
        self._alerts.forget_mark(run, rule)

    def _begin(self, run: Run, rule: Rule) -> None:
        digest, mark = definition(rule), self._alerts.mark(run.key, rule.name)
        if mark is not None and mark.definition == digest:
            return
        fires = self._alerts.firing_of(run.key, rule.name)
        if not all(_may_go_on(alert, rule) for alert in fires):
            self._pen.retire(run.key, rule.name, CHANGED)
            fires = []
        if isinstance(rule, StaleRule):
            newest = self._time.newest_id(run.key, rule)
            # What has come meanwhile is still to end what fires.
            seen = mark.up_to_score if mark is not None and fires else newest
            mark = RuleMark(definition=digest, since_score=newest, up_to_score=seen)
        else:
            newest = self._scores.newest_id(run.key, rule.metric)
            mark = RuleMark(definition=digest, since_score=newest, up_to_score=0)
        self._alerts.set_mark(run.key, rule.name, mark)

    def tick(self) -> int:
        """Bring rules up to date with the scores, for about 2 s; returns how many had something new to look at."""
        ends = self._clock.monotonic() + _TURN_SECONDS
        newest = self._arrivals.newest_id()
        is_time = any(self._of_time.values()) and self._time.is_time(newest)
        if newest == self._caught_up and not is_time:
            return 0
        work = 0
        # A run with much to look at keeps no other waiting for longer than a turn.
        order = [*self._runs[self._turn_of :], *self._runs[: self._turn_of]]
        complete = True
        for run in order:
            if not complete or (work and self._clock.monotonic() >= ends):
                self._turn_of = self._runs.index(run)
                return work + 1
            done, complete = self._turn(run, is_time=is_time, scores=newest != self._caught_up, ends=ends)
            work += done
        if not complete:
            self._turn_of = 0
            return work + 1
        self._caught_up = newest
        if is_time:
            self._time.looked()
        return work

    def behind(self) -> bool:
        """True while scores have arrived that a rule has not looked at, or all_scored nobody looked at since."""
        if any(self._of_time.values()) and self._time.unlooked:
            return True
        return any(self._overtaken(run, rule) is not None for run in self._runs for rule in self._of_curves[run.key])

    def _turn(self, run: Run, *, is_time: bool, scores: bool, ends: float) -> tuple[int, bool]:
        """How many rules had something new, and whether that is all."""
        due = [
            Due(rule=rule, mark=mark, walk=self._walks.get((run.key, rule.name)))
            for rule in (self._of_curves[run.key] if scores else ())
            if (mark := self._overtaken(run, rule)) is not None
        ]
        looks = [self._time.look(run, rule) for rule in self._of_time[run.key]] if is_time else []
        news = [each for each in looks if each is not None]
        if not due and not news:
            return 0, True
        catch_up = CatchUp(self._scores, self._pen, run, due, self._clock, ends=ends)
        ready = catch_up.prepare()
        with self._taken(run, due), self._db.transaction("rule"):
            complete = ready and catch_up.write()
            for each in news:
                self._time.write(run, each)
        return len(due) + len(news), complete

    @contextmanager
    def _taken(self, run: Run, due: Sequence[Due]) -> Iterator[None]:
        """The walks are back when all is committed: one that has gone further than the ledger is of no use."""
        for each in due:
            self._walks.pop((run.key, each.rule.name), None)
        yield
        for each in due:
            if each.walk is not None:
                self._walks[run.key, each.rule.name] = each.walk

    def _overtaken(self, run: Run, rule: Rule) -> RuleMark | None:
        """How far the rule has come, or None when nothing has arrived since."""
        mark = self._alerts.mark(run.key, rule.name)
        newest = self._scores.newest_id(run.key, rule.metric)
        return mark if mark is not None and newest > mark.up_to_score else None


def _may_go_on(alert: Alert, rule: Rule) -> bool:
    """True when an alert of a rule's earlier form may be one of its new form: about the same, and seen the same way."""
    return alert.metric == rule.metric and (alert.kind == StaleRule.kind) == isinstance(rule, StaleRule)
