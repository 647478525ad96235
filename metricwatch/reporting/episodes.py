"""Alerts of a run, from the series of 0 and 1 that the daemon logs of each rule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from metricwatch.config.rules import Rule
from metricwatch.records import Direction, Severity, WindowPoint
from metricwatch.reporting.content import Episode, Series

# As the daemon writes the state of a rule into a tag: "firing at step 4000: fid +17.0% (worse)".
_TAG = re.compile(r"(?:firing|pending) at step \d+: (?P<what>.*) \((?P<direction>worse|better)\)")
TAG = "metricwatch.alert."
_FIRING = 0.5
_DIRECTIONS: Mapping[str | None, Direction] = {"worse": "worse", "better": "better"}
# Over so many evaluations a metric's course before an alert is looked at, where no rule says over how many.
_USUAL_WINDOW = 5


def metric_of(rule: str, configured: Rule | None, tag: str, names: Sequence[str]) -> str | None:
    """The metric that a rule is about: as it is configured, else as the run's tag or the rule's name say."""
    if configured is not None:
        return configured.metric or None
    if found := _TAG.fullmatch(tag):
        said = [name for name in names if found["what"] == name or found["what"].startswith(f"{name} ")]
        if said:
            return max(said, key=len)
    alike = [name for name in names if re.match(rf"{re.escape(name)}(?![A-Za-z0-9_])", rule)]
    return max(alike, key=len, default=None)


def episodes_of(
    rule: str, said: Sequence[tuple[int, float]], configured: Rule | None, metric: str | None, series: Series | None
) -> list[Episode]:
    """The alerts of one rule by step. said are the steps at which it looked, in order, each with 0 or 1."""
    spans: list[tuple[int, int | None]] = []
    since: int | None = None
    for step, value in said:
        if since is None and value > _FIRING:
            since = step
        elif since is not None and not value > _FIRING:
            spans.append((since, step))
            since = None
    if since is not None:
        spans.append((since, None))
    return [
        Episode(
            rule=rule,
            metric=metric,
            severity=_severity(configured, direction := _direction(configured, series, fired)),
            direction=direction,
            fired=fired,
            until=until,
        )
        for fired, until in spans
    ]


def _direction(rule: Rule | None, series: Series | None, fired: int) -> Direction | None:
    """Which way the metric went: as the rule says, else from the curve; None where that is not known."""
    said: str | None = getattr(rule, "direction", None)
    if said in _DIRECTIONS:
        return _DIRECTIONS[said]
    if series is None or series.rises is None:
        return "worse" if rule is not None and said is None else None
    before: list[WindowPoint] = [point for point in series.points if point.step <= fired]
    window = before[-int(getattr(rule, "across", _USUAL_WINDOW)) :]
    if not window or window[0].value == window[-1].value:
        return None
    return "better" if (window[-1].value > window[0].value) is series.rises else "worse"


def _severity(rule: Rule | None, direction: Direction | None) -> Severity:
    if rule is not None and rule.severity is not None:
        return rule.severity
    severities: Mapping[Direction | None, Severity] = {"worse": "critical", "better": "info"}
    return severities.get(direction, "warning")
