"""Writes down what the rules say: states, alerts, and what a sink shows of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from metricwatch.clock import Clock, to_ms
from metricwatch.config.rules import Rule
from metricwatch.records import Alert, AlertState, Point, Run
from metricwatch.rules.definition import severity
from metricwatch.rules.judgements import StepState
from metricwatch.rules.states import Episode, Walk
from metricwatch.store.alerts import Alerts, RuleMark, RuleState
from metricwatch.store.db import Database
from metricwatch.store.deliveries import Deliveries


class Pen:
    """Everything here joins the transaction around it: what is seen of a rule is always of one moment."""

    def __init__(self, db: Database, sinks: Sequence[str], clock: Clock) -> None:
        self._sinks = sinks
        self._clock = clock
        self._alerts = Alerts(db)
        self._deliveries = Deliveries(db)

    def write(
        self, run: Run, rule: Rule, mark: RuleMark, walk: Walk, states: Sequence[StepState], *, in_order: bool
    ) -> None:
        """Write the states of a walk where they differ from the ledger, its episodes as alerts, and the mark.

        in_order: the states follow those that are written.
        """
        last = self._alerts.latest_state(run.key, rule.name)
        before = {} if in_order else self._alerts.states(run.key, rule.name)
        self.write_states(run, rule, before, states, mark.up_to_score)
        changed = self._write_alerts(run, rule, mark, walk, in_order=in_order)
        if changed or states[-1].state != (last.state if last else AlertState.INACTIVE):
            self.tag(run, rule, states[-1], mark.up_to_score)
        self._alerts.set_mark(run.key, rule.name, mark)
        walk.settle()

    def write_states(
        self, run: Run, rule: Rule, before: Mapping[int, RuleState], states: Sequence[StepState], newest: int
    ) -> None:
        """Write the states that differ from those before, with points of 0 and 1. newest is the score that led here."""
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

    def tag(self, run: Run, rule: Rule, state: StepState, newest: int) -> None:
        """Have the sinks show the rule's state in a tag of the run."""
        text = f"{state.state.value} at step {state.step}"
        if state.state is AlertState.PENDING:
            text += f": {state.note} ({state.direction})"
        elif state.direction is not None:
            what = state.what if state.change is None else f"{state.change:+.1%}"
            text += f": {f'{rule.metric} {what}'.strip()} ({state.direction})"
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
        # What is over stays over: an evaluation that follows the others ends what lasts, or begins something.
        recorded = (self._alerts.firing_of if in_order else self._alerts.of_rule)(run.key, rule.name)
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
                self._alerts.add(alert_of(run, rule, episode), announce=news, now=now)
                changed = True
                continue
            if alert.state is not AlertState.FIRING:
                continue
            if _story(alert) != _story(episode):
                self._alerts.amend(alert.id, alert_of(run, rule, episode))
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


def alert_of(run: Run, rule: Rule, episode: Episode) -> Alert:
    """The alert that an episode is told as; it has no id yet."""
    return Alert(
        id=0,
        run=run.key,
        rule=rule.name,
        metric=rule.metric,
        direction=episode.direction,
        severity=severity(rule, episode.direction),
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
        kind=rule.kind,
        labels=dict(rule.labels),
    )


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
