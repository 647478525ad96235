"""What alerts.html says of a run, collected from the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

from metricwatch.config.rules import Rule
from metricwatch.config.wording import bounds_of, in_words
from metricwatch.drawing.curve import Curve, Span
from metricwatch.drawing.page import Page, RuleNote
from metricwatch.drawing.thin import thinned, thinned_steps
from metricwatch.records import Alert, ScoreState, WindowPoint
from metricwatch.store.alerts import Alerts
from metricwatch.store.db import Database
from metricwatch.store.pages import Pages
from metricwatch.store.provenance import comparable, describe_changes
from metricwatch.store.scores import Scores, SeriesPoint

_MOST_ALERTS = 100
# Of each curve; a screen has not even so many columns.
_MOST_POINTS = 1000
_MOST_GAPS = 300
_MOST_CURVES = 12
_MOST_NOTES = 20


class Contents:
    """Reads only. rules are the configured ones: of others the page says that they are not configured any more."""

    def __init__(self, db: Database, rules: Sequence[Rule] = ()) -> None:
        self._alerts = Alerts(db)
        self._pages = Pages(db)
        self._scores = Scores(db)
        self._rules = rules

    def of(self, run: str, run_name: str, now: datetime) -> tuple[Page, dict[str, Curve]]:
        """The page without its pictures, and by rule the curve that belongs on it."""
        total, alerts = self._pages.alerts(run), self._alerts.recent(run, _MOST_ALERTS)
        configured = self._configured(run_name)
        # Those with alerts first, the newest before the others.
        metrics = {alert.rule: alert.metric for alert in alerts}
        names = [*metrics, *(name for name in configured if name not in metrics)]
        drawn = [name for name in metrics if metrics[name]]
        series: dict[str, list[SeriesPoint]] = {}
        for name in drawn[:_MOST_CURVES]:
            if metrics[name] not in series:
                series[metrics[name]] = self._scores.series(run, metrics[name])
        notes = []
        for name in names:
            rule, state = configured.get(name), self._alerts.latest_state(run, name)
            metric = rule.metric if rule else metrics[name]
            notes.append(
                RuleNote(
                    name=name,
                    metric=metric,
                    words=in_words(rule) if rule else "",
                    state=state.state if state else "",
                    step=state.step if state else None,
                    note=state.note if state else "",
                    trouble="" if name not in drawn[_MOST_CURVES:] else f"{_MOST_CURVES} others had alerts later",
                )
            )
        page = Page(
            run_name=run_name,
            made_at=now,
            rules=notes,
            alerts=alerts,
            left_off=total - len(alerts),
            notes=[note for key, points in series.items() for note in _new_series(key, points)][:_MOST_NOTES],
        )
        curves = {
            name: _curve(name, metrics[name], series[metrics[name]], alerts, configured.get(name), run_name)
            for name in drawn[:_MOST_CURVES]
        }
        return page, curves

    def _configured(self, run_name: str) -> dict[str, Rule]:
        """The rules that are for this run, in the form they have for it."""
        found = ((rule.name, rule.for_run(run_name)) for rule in self._rules)
        return {name: rule for name, rule in found if rule is not None}


def _curve(
    name: str, metric: str, series: Sequence[SeriesPoint], alerts: Sequence[Alert], rule: Rule | None, run_name: str
) -> Curve:
    points = [
        WindowPoint(step=point.step, value=point.score.value, stderr=point.score.stderr)
        for point in series
        if point.score.value is not None
    ]
    return Curve(
        title=f"{metric} of {run_name}, rule {name}",
        key=metric,
        points=tuple(thinned(points, _MOST_POINTS)),
        spans=tuple(
            Span(
                rule=name,
                severity=alert.severity,
                direction=alert.direction,
                fired=alert.fired_step,
                # One that ended with its rule ends where it began, for all that is known.
                until=None
                if alert.state == "firing"
                else (alert.fired_step if alert.resolved_step is None else alert.resolved_step),
                window=alert.window,
            )
            for alert in alerts
            if alert.rule == name and alert.metric == metric
        ),
        bounds=bounds_of(rule) if rule else (),
        gaps=tuple(thinned_steps([point.step for point in series if point.score.value is None], _MOST_GAPS)),
    )


def _new_series(key: str, series: Sequence[SeriesPoint]) -> list[str]:
    """A line for each step at which a new series of values begins, the newest first."""
    valued = [point for point in series if point.score.state is ScoreState.OK]
    return [
        f"{key}: a new series begins at step {after.step:,}"
        f" ({describe_changes(before.score.provenance, after.score.provenance) or 'what it depends on has changed'})"
        for before, after in pairwise(valued)
        if not comparable(before.score, after.score)
    ][::-1]
