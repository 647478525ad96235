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

# Stands for the score that led to what is written, where none did.
_RETIRED = -1
# Why an alert is over that no curve ends.
REMOVED = "the rule was removed"
OFF = "the rule was switched off for this run"
CHANGED = "the rule was changed"
_WITHDRAWN = "withdrawn: later arrivals changed the history"


class Pen:
    """Everything here joins the transaction around it: what is seen of a rule is always of one moment."""

    def __init__(self, db: Database, sinks: Sequence[str], clock: Clock) -> None:
        self._sinks = sinks
        self._clock = clock
        self._alerts = Alerts(db)
        self._deliveries = Deliveries(db)

    def write(
        self,
        run: Run,
        rule: Rule,
        mark: RuleMark,
        walk: Walk,
        states: Sequence[StepState],
        *,
        in_order: bool,
        first: bool = False,
    ) -> None:
        """Write the states of a walk where they differ from the ledger, its episodes as alerts, and the mark.

        in_order: the states follow those that are written; else they are all those from a step on. first: they are what
        a new rule says of all that was there, or a rule in its new form: an alert that fires of the earlier one goes on
        where the new one fires too, and is over where not.
        """
        last = self._alerts.latest_state(run.key, rule.name)
        before = {} if in_order else self._alerts.states(run.key, rule.name, since_step=0 if first else states[0].step)
        self.write_states(run.key, rule.name, before, states, mark.up_to_score)
        if first:
            # It looked at another metric.
            self._alerts.forget_states(run.key, rule.name, before.keys() - {state.step for state in states})
        changed = self._write_alerts(run, rule, mark, walk, in_order=in_order, first=first)
        if changed or states[-1].state != (last.state if last else AlertState.INACTIVE):
            self.tag(run, rule, states[-1], mark.up_to_score)
        self._alerts.set_mark(run.key, rule.name, mark)
        walk.settle()

    def write_states(
        self, run: str, rule: str, before: Mapping[int, RuleState], states: Sequence[StepState], newest: int
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
        self._alerts.set_states(run, rule, changed)

    def retire(self, run: str, rule: str, reason: str) -> None:
        """A rule says no more of a run: what fires of it is over at its last step, and whoever was told hears it."""
        last = self._alerts.latest_state(run, rule)
        for alert in self._alerts.firing_of(run, rule):
            step = last.step if last else alert.fired_step
            self._alerts.resolve(alert.id, step=step, value=None, reason=reason, now=self._clock.now())
        if last is None or last.state == AlertState.INACTIVE:
            return
        over = StepState(id=0, step=last.step, state=AlertState.INACTIVE, note=reason)
        self.write_states(run, rule, {last.step: last}, [over], _RETIRED)
        self._send_tag(run, rule, f"{over.state.value} at step {over.step}: {reason}", _RETIRED)

    def tag(self, run: Run, rule: Rule, state: StepState, newest: int) -> None:
        """Have the sinks show the rule's state in a tag of the run."""
        text = f"{state.state.value} at step {state.step}"
        if state.state is AlertState.PENDING:
            text += f": {state.note} ({state.direction})"
        elif state.direction is not None:
            what = state.what if state.change is None else f"{state.change:+.1%}"
            text += f": {f'{rule.metric} {what}'.strip()} ({state.direction})"
        self._send_tag(run.key, rule.name, text, newest)

    def _send_tag(self, run: str, rule: str, text: str, newest: int) -> None:
        now = self._clock.now()
        for sink in self._sinks:
            self._deliveries.enqueue(
                sink=sink,
                run=run,
                identity=f"tag/{run}/{rule}/{newest}/{to_ms(now)}",
                points=[],
                tags={f"metricwatch.alert.{rule}": text},
                now=now,
            )

    def _send_point(self, run: str, rule: str, state: RuleState, newest: int) -> None:
        now = self._clock.now()
        point = Point(
            key=f"alert/{rule}",
            value=1.0 if state.state == AlertState.FIRING else 0.0,
            timestamp_ms=to_ms(now),
            step=state.step,
        )
        for sink in self._sinks:
            self._deliveries.enqueue(
                sink=sink,
                run=run,
                identity=f"rule/{run}/{rule}/{state.step}/{newest}/{point.timestamp_ms}",
                points=[point],
                tags={},
                now=now,
            )

    def _write_alerts(self, run: Run, rule: Rule, mark: RuleMark, walk: Walk, *, in_order: bool, first: bool) -> bool:
        """Reconcile recorded alerts with the episodes of the series; True when an alert began or ended."""
        now = self._clock.now()
        # What is over stays over: an evaluation that follows the others ends what lasts, or begins something.
        recorded = (self._alerts.firing_of if in_order else self._alerts.of_rule)(run.key, rule.name)
        matched: set[int] = set()
        changed = False
        # What lasts first: it is the alert that lasts, wherever it began by now.
        for episode in sorted(walk.episodes(), key=lambda each: each.resolved_step is not None):
            is_open = episode.resolved_step is None
            same = [
                a
                for a in recorded
                if a.id not in matched
                and _same(a, episode)
                # What fires of the rule's earlier form is not ended by what the new one says of the past.
                and (is_open or not first or a.state is not AlertState.FIRING)
            ]
            alert = max(same, key=partial(_likeness, episode), default=None)
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
            if _story(alert) != _story(episode) or alert.kind != rule.kind:
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
                reason = CHANGED if first else _WITHDRAWN
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
    if alert.state is AlertState.RESOLVED and (alert.resolved_step is None or alert.reason in {REMOVED, OFF, CHANGED}):
        # Ended with its rule, whose steps are not those of the rule as it is now. (Earlier versions noted no step.)
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
    return told.fired_step, told.change, told.threshold, told.window, told.what, told.detail
