"""The rules stage: recompute what new scores may have changed, and write down the difference."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from metricwatch.clock import Clock, to_ms
from metricwatch.config.rules import Rule
from metricwatch.records import Alert, AlertState, Point, Run
from metricwatch.rules.judgements import StepState
from metricwatch.rules.observations import observation
from metricwatch.rules.states import Episode, Walk
from metricwatch.store.alerts import Alerts, RuleMark, RuleState
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries
from metricwatch.store.scores import Scores


class Rules:
    """The only writer of rule states and alerts.

    What a rule says is a function of the whole series: a late or rewritten evaluation has it walked anew, and only what
    differs from the ledger is written, and sent. While evaluations come in order the walk goes on where it was.
    """

    def __init__(
        self, db: Database, rules: Sequence[Rule], runs: Sequence[Run], sinks: Sequence[str], clock: Clock
    ) -> None:
        self._db = db
        self._rules = rules
        self._runs = runs
        self._sinks = sinks
        self._clock = clock
        self._alerts = Alerts(db)
        self._scores = Scores(db)
        self._deliveries = Deliveries(db)
        # By run and rule: how far it has come along a series that has only been added to.
        self._walks: dict[tuple[str, str], Walk] = {}

    def start(self) -> None:
        """Note which rules are new: what they would have said about older scores is history, not news."""
        names = {rule.name for rule in self._rules}
        with self._db.transaction("rule-marks"):
            self._alerts.forget_other_rules(names)
            for run in self._runs:
                for rule in self._rules:
                    definition = _definition(rule)
                    mark = self._alerts.mark(run.key, rule.name)
                    if mark is not None and mark.definition != definition:
                        self._retire(run, rule)
                    if mark is None or mark.definition != definition:
                        newest = self._scores.newest_id(run.key, rule.metric)
                        self._alerts.set_mark(
                            run.key, rule.name, RuleMark(definition=definition, since_score=newest, up_to_score=0)
                        )
            for alert in self._alerts.firing():
                if alert.rule not in names:
                    self._alerts.resolve(
                        alert.id,
                        step=None,
                        value=None,
                        reason="the rule was removed",
                        now=self._clock.now(),
                        announce=False,
                    )

    def _retire(self, run: Run, rule: Rule) -> None:
        """Forget what the rule said in its earlier form. Whoever was told that it fires hears it from the new one."""
        self._alerts.forget_states(run.key, rule.name)
        for alert in self._alerts.of_rule(run.key, rule.name):
            if alert.state is AlertState.FIRING:
                reason = "the rule was changed"
                self._alerts.resolve(
                    alert.id, step=None, value=None, reason=reason, now=self._clock.now(), announce=False
                )

    def tick(self) -> int:
        """Bring every rule up to date with the scores; returns how many rules had something new to look at."""
        work = 0
        for run in self._runs:
            for rule in self._rules:
                if mark := self._overtaken(run, rule):
                    self._evaluate(run, rule, mark)
                    work += 1
        return work

    def behind(self) -> bool:
        """True while scores have arrived that a rule has not looked at."""
        return any(self._overtaken(run, rule) is not None for run in self._runs for rule in self._rules)

    def _overtaken(self, run: Run, rule: Rule) -> RuleMark | None:
        """How far the rule has come, or None when nothing has arrived since."""
        mark = self._alerts.mark(run.key, rule.name)
        newest = self._scores.newest_id(run.key, rule.metric)
        return mark if mark is not None and newest > mark.up_to_score else None

    def _evaluate(self, run: Run, rule: Rule, mark: RuleMark) -> None:
        """Look at what has arrived, in the order of its arrival: at once or one by one, it comes to the same."""
        place = run.key, rule.name
        # Taken out until all is written: a walk that has gone further than the ledger is of no use.
        walk = self._walks.pop(place, None)
        if mark.up_to_score < mark.since_score:
            # The rule is new here: it takes in at one go what was there before it.
            mark = replace(mark, up_to_score=mark.since_score)
            walk, states = self._walk(run, rule, mark.since_score)
            self._write(run, rule, mark, walk, states, in_order=False)
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
            self._write(run, rule, mark, walk, states, in_order=in_order)
        self._walks[place] = walk

    def _walk(self, run: Run, rule: Rule, up_to: int) -> tuple[Walk, list[StepState]]:
        """A walk along the series as it was when the score `up_to` had arrived, and what the rule said on the way."""
        walk = Walk(rule)
        return walk, [walk.go(observation(point)) for point in self._scores.series(run.key, rule.metric, up_to=up_to)]

    def _write(
        self, run: Run, rule: Rule, mark: RuleMark, walk: Walk, states: Sequence[StepState], *, in_order: bool
    ) -> None:
        before = {} if in_order else self._alerts.states(run.key, rule.name)
        with self._db.transaction("rule"):
            self._write_states(run, rule, before, states, mark.up_to_score)
            if self._write_alerts(run, rule, mark, walk, in_order=in_order):
                self._tag(run, rule, states[-1], mark.up_to_score)
            self._alerts.set_mark(run.key, rule.name, mark)
        walk.settle()

    def _write_states(
        self, run: Run, rule: Rule, before: Mapping[int, RuleState], states: Sequence[StepState], newest: int
    ) -> None:
        changed = []
        for state in states:
            old = before.get(state.step)
            new = RuleState(
                step=state.step,
                state=state.state.value,
                direction=state.direction,
                change=state.change,
                note=state.note,
            )
            if old == new:
                continue
            changed.append(new)
            if old is None or old.state != new.state:
                self._send_point(run, rule, new, newest)
        self._alerts.set_states(run.key, rule.name, changed)

    def _send_point(self, run: Run, rule: Rule, state: RuleState, newest: int) -> None:
        now = self._clock.now()
        point = Point(
            key=f"alert/{rule.name}",
            value=1.0 if state.state == AlertState.FIRING else 0.0,
            timestamp_ms=to_ms(now),
            step=state.step,
        )
        for sink in self._sinks:
            self._deliveries.enqueue(
                sink=sink,
                run=run.key,
                identity=f"rule/{run.key}/{rule.name}/{state.step}/{newest}/{point.timestamp_ms}",
                points=[point],
                tags={},
                now=now,
            )

    def _write_alerts(self, run: Run, rule: Rule, mark: RuleMark, walk: Walk, *, in_order: bool) -> bool:
        """Reconcile recorded alerts with the episodes of the series; True when an alert began or ended."""
        now = self._clock.now()
        recorded = self._alerts.of_rule(run.key, rule.name)
        if in_order:
            # What is over stays over: an evaluation that follows the others ends what lasts, or begins something.
            recorded = [alert for alert in recorded if alert.state is AlertState.FIRING]
        matched: set[int] = set()
        changed = False
        for episode in walk.episodes():
            same = [a for a in recorded if a.id not in matched and _same(a, episode)]
            alert = max(same, key=partial(_likeness, episode), default=None)
            is_open = episode.resolved_step is None
            if alert is not None:
                matched.add(alert.id)
            if alert is None or (alert.state is AlertState.RESOLVED and is_open):
                ended = episode.resolved_id
                # What is over, or is part of what people were told already, is history.
                told = any(_same(a, episode) for a in recorded)
                news = ended is None or (max(episode.fired_id, ended) > mark.since_score and not told)
                self._alerts.add(_new_alert(run, rule, episode), announce=news, now=now)
                changed = True
                continue
            if alert.state is not AlertState.FIRING:
                continue
            if _story(alert) != _story(episode):
                self._alerts.amend(alert.id, _new_alert(run, rule, episode))
            if episode.resolved_step is not None:
                self._alerts.resolve(
                    alert.id,
                    step=episode.resolved_step,
                    value=episode.resolved_value,
                    reason=episode.reason,
                    now=now,
                )
                changed = True
        for alert in recorded:
            if alert.state is AlertState.FIRING and alert.id not in matched:
                reason = "withdrawn: later arrivals changed the history"
                step, value = (walk.at.step, walk.at.value) if walk.at else (None, None)
                self._alerts.resolve(alert.id, step=step, value=value, reason=reason, now=now)
                changed = True
        return changed

    def _tag(self, run: Run, rule: Rule, state: StepState, newest: int) -> None:
        text = f"{state.state.value} at step {state.step}"
        if state.direction is not None:
            what = state.what if state.change is None else f"{state.change:+.1%}"
            text += f": {rule.metric} {what} ({state.direction})"
        now = self._clock.now()
        for sink in self._sinks:
            self._deliveries.enqueue(
                sink=sink,
                run=run.key,
                identity=f"tag/{run.key}/{rule.name}/{newest}/{to_ms(now)}",
                points=[],
                tags={f"metricwatch.alert.{rule.name}": text},
                now=now,
            )


def _definition(rule: Rule) -> str:
    return hashlib.blake2b(rule.model_dump_json(exclude={"receivers"}).encode(), digest_size=8).hexdigest()


def _same(alert: Alert, episode: Episode) -> bool:
    """True when a recorded alert and a computed episode share a step, so are the same event."""
    if alert.direction != episode.direction:
        return False
    starts_before_end = episode.resolved_step is None or alert.fired_step < episode.resolved_step
    ends_after_start = alert.resolved_step is None or episode.fired_step < alert.resolved_step
    return starts_before_end and ends_after_start


def _likeness(episode: Episode, alert: Alert) -> tuple[object, ...]:
    """Of several alerts that share a step with an episode, the one to which this is the greatest is the same event."""
    is_open, fires = episode.resolved_step is None, alert.state is AlertState.FIRING
    # One that is open in both comes first: there must never be two open ones.
    return is_open and fires, alert.fired_step == episode.fired_step, is_open == fires, alert.id


def _story(told: Alert | Episode) -> tuple[object, ...]:
    """What an alert tells of its beginning. A movement is told by its window."""
    return told.fired_step, told.window, told.what, told.detail


def _new_alert(run: Run, rule: Rule, episode: Episode) -> Alert:
    return Alert(
        id=0,
        run=run.key,
        rule=rule.name,
        metric=rule.metric,
        direction=episode.direction,
        severity="critical" if episode.direction == "worse" else "info",
        state=AlertState.FIRING if episode.resolved_step is None else AlertState.RESOLVED,
        fired_step=episode.fired_step,
        resolved_step=episode.resolved_step,
        resolved_value=episode.resolved_value,
        change=episode.change,
        threshold=episode.threshold,
        window=episode.window,
        moved=episode.moved,
        what=episode.what,
        detail=episode.detail,
        reason=episode.reason,
    )
