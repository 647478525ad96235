"""What a rule says of a whole history, as alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from metricwatch.config.rules import SeriesRule, StaleRule
from metricwatch.records import Alert, AlertState, Run
from metricwatch.rules import stale
from metricwatch.rules.definition import severity
from metricwatch.rules.judgements import StepState
from metricwatch.rules.observations import Observation
from metricwatch.rules.states import Episode, Walk
from metricwatch.rules.writing import alert_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The rule's state at each evaluation (none for a rule about time), and its alerts in the order they fired."""

    states: tuple[StepState, ...]
    alerts: tuple[Alert, ...]

    @property
    def firing(self) -> int:
        """At how many evaluations it fired."""
        return sum(state.state is AlertState.FIRING for state in self.states)


def judge(rule: SeriesRule, series: Sequence[Observation], *, run: str, moments: Mapping[int, datetime]) -> Judged:
    """A rule about a metric, over observations ordered by step. moments: when each step was evaluated, where known."""
    walk = Walk(rule)
    states = [walk.go(item) for item in series]
    return Judged(
        states=tuple(states), alerts=tuple(_alert(rule, episode, run, moments) for episode in walk.episodes())
    )


def judge_gaps(
    rule: StaleRule, seen: Sequence[tuple[int, datetime]], *, run: str, since: datetime, until: datetime
) -> Judged:
    """A rule about time, over steps and times of evaluations in the order of their times."""
    found = stale.gaps(rule.stale, seen, since=since, until=until)
    alerts = [
        Alert(
            id=0,
            run=run,
            rule=rule.name,
            metric=rule.metric,
            direction="worse",
            severity=severity(rule, "worse"),
            state=AlertState.FIRING if gap.resolved_at is None else AlertState.RESOLVED,
            fired_step=gap.fired_step,
            fired_at=gap.fired_at,
            resolved_step=gap.resolved_step,
            resolved_at=gap.resolved_at,
            change=0.0,
            threshold=0.0,
            window=(),
            what=stale.happened(rule.stale),
            reason="" if gap.resolved_at is None else stale.CAME,
            kind=rule.kind,
            labels=dict(rule.labels),
        )
        for gap in found
    ]
    return Judged(states=(), alerts=tuple(alerts))


def _alert(rule: SeriesRule, episode: Episode, run: str, moments: Mapping[int, datetime]) -> Alert:
    alert = alert_of(Run(key=run, name=run), rule, episode)
    resolved_at = moments.get(alert.resolved_step) if alert.resolved_step is not None else None
    return replace(alert, fired_at=moments.get(alert.fired_step), resolved_at=resolved_at)


def happened(alert: Alert) -> str:
    """What an alert is about, in a few words: "fid rose 20.0%, more than 10%"."""
    if not alert.what:
        verb = "rose" if alert.change > 0 else "fell"
        return f"{alert.metric} {verb} {abs(alert.change):.1%}, more than {alert.threshold * 100:.4g}%"
    words = f"{alert.metric or 'the run'} {alert.what}"
    return f"{words} ({alert.detail})" if alert.detail else words
