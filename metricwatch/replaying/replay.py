"""What rules would have said over a run that a sink has recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from metricwatch import catalog
from metricwatch.config.rules import Rule, SeriesRule, StaleRule
from metricwatch.records import Alert
from metricwatch.replaying.curves import Curves, Show
from metricwatch.replaying.directions import Directions, Rise
from metricwatch.replaying.judging import Judged, judge, judge_gaps
from metricwatch.rules.observations import Observation
from metricwatch.rules.stale import at_its_end


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One rule over one curve. Without a key, reason says why it was not looked at.

    rule is the rule as it is for this run; key the curve's; rise None for a rule about time. alerts have the times of
    their steps, where these are known.
    """

    rule: Rule
    metric: str
    key: str | None = None
    rise: Rise | None = None
    series: tuple[Observation, ...] = ()
    evaluations: int = 0
    firing: int | None = None
    alerts: tuple[Alert, ...] = ()
    reason: str = ""

    @property
    def critical(self) -> int:
        """How many alerts were critical."""
        return sum(alert.severity == "critical" for alert in self.alerts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """A run as it is replayed: its name to rules, how long it is meant to be, and whether it has ended well."""

    name: str
    total_steps: int | None = None
    ended: bool = False


def replay(
    rules: Sequence[Rule],
    run: Recorded,
    curves: Curves,
    directions: Directions,
    *,
    now: datetime,
    metrics: Sequence[str] = (),
    show: Show = lambda *_: None,
) -> list[Look]:
    """Every rule over its own metric's curve, or over each of `metrics` in its place. Raises as Sink.read() does.

    The rules are walked as the daemon walks them, over the newest value of each step. What is in no sink counts as
    unchanged: image counts, and what else a value depends on.
    """
    wanted = [(rule, metric) for rule in rules for metric in (metrics or (rule.metric,))]
    plans = [_plan(rule, metric, run, curves) for rule, metric in wanted]
    needed = [key for plan in plans if plan.key is not None for key in _needed(plan, curves)]
    curves.load(needed, show)
    own = _own(plans)
    return [_look(plan, run, curves, directions, own.get(plan.key or "", ()), now) for plan in plans]


def _plan(rule: Rule, metric: str, run: Recorded, curves: Curves) -> Look:
    """What is to be looked at, before any curve is read."""
    chosen = rule.for_run(run.name)
    if chosen is None:
        return Look(rule=rule, metric=metric, reason=f"the rule is off for {run.name}")
    if metric == "":
        reason = "" if curves.scores() else "metricwatch has logged no score to this run; --metric looks at one curve"
        return Look(rule=chosen, metric=metric, key=None if reason else "", reason=reason)
    key = curves.key_of(metric)
    if key is None:
        return Look(rule=chosen, metric=metric, reason=f"no such key; {nearest(metric, curves)}")
    return Look(rule=chosen, metric=metric, key=key)


def nearest(metric: str, curves: Curves) -> str:
    """The tail of a message about a key that a run does not have."""
    names = curves.names()
    return catalog.did_you_mean(metric, names) if names else "the run has none"


def _needed(plan: Look, curves: Curves) -> Sequence[str]:
    return curves.needed(plan.key or "")


def _own(plans: Sequence[Look]) -> Mapping[str, list[str]]:
    """By key, the rules that are about it by themselves: where the daemon logged what they said it had a score."""
    found: dict[str, list[str]] = {}
    for plan in plans:
        if plan.key and plan.metric == plan.rule.metric and not isinstance(plan.rule, StaleRule):
            found.setdefault(plan.key, []).append(plan.rule.name)
    return found


def _look(plan: Look, run: Recorded, curves: Curves, directions: Directions, own: Sequence[str], now: datetime) -> Look:
    if plan.key is None:
        return plan
    if isinstance(plan.rule, StaleRule):
        return _look_for_gaps(plan, plan.rule, run, curves, own, now)
    return _look_at(plan, plan.rule, run, curves, directions, own)


def _look_for_gaps(
    plan: Look, rule: StaleRule, run: Recorded, curves: Curves, own: Sequence[str], now: datetime
) -> Look:
    seen = curves.moments(plan.key or "", rules=own)
    if not seen:
        return _without(plan)
    over = run.ended or (run.total_steps is not None and at_its_end([step for step, _ in seen], run.total_steps))
    # Nobody waits for another evaluation of a run that is over.
    judged = judge_gaps(rule, seen, run=run.name, since=seen[0][1], until=seen[-1][1] if over else now)
    return _told(plan, judged, None, (), len({step for step, _ in seen}))


def _look_at(
    plan: Look, rule: SeriesRule, run: Recorded, curves: Curves, directions: Directions, own: Sequence[str]
) -> Look:
    key = plan.key or ""
    rise = directions.of(key)
    series, moments = curves.observations(key, higher_is_better=rise.better, rules=own)
    if not series:
        return _without(plan)
    # The rule may be meant for another metric: what it says is about this one.
    about = rule.model_copy(update={"metric": plan.metric})
    judged = judge(about, series, run=run.name, moments=moments)
    return _told(plan, judged, rise, series, len(series))


def _told(plan: Look, judged: Judged, rise: Rise | None, series: Sequence[Observation], evaluations: int) -> Look:
    return Look(
        rule=plan.rule,
        metric=plan.metric,
        key=plan.key,
        rise=rise,
        series=tuple(series),
        evaluations=evaluations,
        firing=judged.firing if rise is not None else None,
        alerts=judged.alerts,
    )


def _without(plan: Look) -> Look:
    return Look(rule=plan.rule, metric=plan.metric, reason="the key has no points")
