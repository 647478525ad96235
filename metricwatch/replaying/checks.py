"""Tests of rules: what their rules say of a series, compared with what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from metricwatch.config.rules import Rule, StaleRule
from metricwatch.records import Alert
from metricwatch.replaying.cases import Case, Cases, Expected, Series
from metricwatch.replaying.directions import Directions
from metricwatch.replaying.judging import Judged, happened, judge, judge_gaps
from metricwatch.replaying.notation import Item, parse_series
from metricwatch.rules.observations import Observation
from metricwatch.rules.stale import at_its_end

# Any moment will do: what counts is the time from one evaluation to the next.
_START = datetime(2000, 1, 1, tzinfo=UTC)
_BEFORE, _AFTER = 4, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Where a rule said something else than a test expects; around: the evaluations about that step, on one line."""

    rule: str
    expected: str
    got: str
    around: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One test, and where it failed."""

    case: Case
    failures: tuple[Failure, ...]


def run_cases(cases: Cases) -> Iterator[Outcome]:
    """Every test of a file, one after the other."""
    directions = Directions(composites=cases.rules.composites)
    for case in cases.tests:
        yield Outcome(case=case, failures=tuple(_failures(cases, case, directions)))


def _failures(cases: Cases, case: Case, directions: Directions) -> Iterator[Failure]:
    for rule in cases.rules.rules:
        if not (looked_at := case.looked_at(rule)):
            continue
        chosen = rule.for_run(case.run)
        judged = _judged(chosen, case, looked_at, cases, directions) if chosen else Judged(states=(), alerts=())
        around = _Around(case, looked_at[0])
        off = "" if chosen else f": the rule is off for {case.run}"
        if case.expect is not None:
            expected = [item for item in case.expect if item.rule == rule.name]
            yield from _compared(rule, expected, judged.alerts, around, off)
        states = {state.step: state for state in judged.states}
        for wanted in (item for item in case.states if item.rule == rule.name):
            state = states.get(wanted.step)
            got = state.state.value if state else "inactive"
            if got != wanted.state:
                note = f" ({state.note})" if state and state.note else off
                yield Failure(
                    rule=rule.name,
                    expected=f"{wanted.state} at step {wanted.step}",
                    got=f"{got}{note}",
                    around=around.at(wanted.step),
                )


def _judged(rule: Rule, case: Case, looked_at: Sequence[Series], cases: Cases, directions: Directions) -> Judged:
    if isinstance(rule, StaleRule):
        seen = [(step, _START + cases.interval * (step // case.step)) for step in case.steps_of(rule)]
        until = _START + cases.interval * max(len(parse_series(series.values)) for series in case.series)
        if case.total_steps is not None and at_its_end([step for step, _ in seen], case.total_steps):
            # The run is over: nobody waits for another evaluation.
            until = seen[-1][1]
        return judge_gaps(rule, seen, run=case.run, since=_START, until=until)
    (series,) = looked_at
    return judge(rule, _observations(case, series, directions), run=case.run, moments={})


def _observations(case: Case, series: Series, directions: Directions) -> list[Observation]:
    values = parse_series(series.values)
    stderrs = _as_long(parse_series(series.stderr) if series.stderr is not None else [None], len(values))
    images = _as_long(parse_series(series.images), len(values))
    rises = series.higher_is_better
    higher_is_better = directions.of(series.metric).better if rises is None else rises
    found = []
    for place, (item, stderr, count) in enumerate(zip(values, stderrs, images, strict=True), 1):
        if item is None:
            continue
        step = case.step * place
        found.append(
            Observation(
                id=place,
                step=step,
                value=item.value,
                stderr=stderr.value if stderr is not None and item.value is not None else None,
                images=int(count.value or 0) if count is not None else 0,
                higher_is_better=higher_is_better,
                series=str(sum(step >= changed for changed in series.changed_at)) if item.value is not None else "",
                state=item.state,
            )
        )
    return found


def _as_long(items: Sequence[Item | None], length: int) -> list[Item | None]:
    return [*items, *([items[-1]] * (length - len(items)))]


# --- the comparison ----------------------------------------------------------------------------------------


def _compared(
    rule: Rule, expected: Sequence[Expected], alerts: Sequence[Alert], around: _Around, off: str
) -> Iterator[Failure]:
    """Each alert must be expected once, and each expectation met by an alert of its own."""
    left = list(alerts)
    unmet = []
    for item in expected:
        alert = next((alert for alert in left if _meets(alert, item)), None)
        if alert is None:
            unmet.append(item)
        else:
            left.remove(alert)
    for item in unmet:
        # The alert that was meant: the one of that step, else the nearest.
        alert = min(left, key=lambda alert: abs(alert.fired_step - item.fired), default=None)
        if alert is not None:
            left.remove(alert)
        got = _got(alert) if alert else f"no alert{off}"
        yield Failure(rule=rule.name, expected=_expectation(item), got=got, around=around.at(item.fired))
    for alert in left:
        yield Failure(rule=rule.name, expected="no alert", got=_got(alert), around=around.at(alert.fired_step))


def _meets(alert: Alert, expected: Expected) -> bool:
    resolved = "never" if alert.resolved_step is None else alert.resolved_step
    return (
        alert.fired_step == expected.fired
        and expected.resolved in {None, resolved}
        and expected.direction in {None, alert.direction}
        and expected.severity in {None, alert.severity}
        and expected.labels.items() <= dict(alert.labels).items()
        and (expected.what is None or expected.what in happened(alert))
    )


def _expectation(item: Expected) -> str:
    parts = [f"fired at {item.fired}"]
    if item.resolved is not None:
        parts.append("never resolved" if item.resolved == "never" else f"resolved at {item.resolved}")
    parts += [word for word in (item.direction, item.severity) if word]
    parts += [f"{key}={value}" for key, value in item.labels.items()]
    text = ", ".join(parts)
    return f"{text}: …{item.what}…" if item.what is not None else text


def _got(alert: Alert) -> str:
    until = "never resolved" if alert.resolved_step is None else f"resolved at {alert.resolved_step}"
    parts = [f"fired at {alert.fired_step}", until, alert.direction, alert.severity]
    parts += [f"{key}={value}" for key, value in alert.labels.items()]
    return f"{', '.join(parts)}: {happened(alert)}"


class _Around:
    """Shows a few evaluations of a series about a step."""

    def __init__(self, case: Case, series: Series) -> None:
        self._metric = series.metric
        items = enumerate(parse_series(series.values), 1)
        self._shown = [(case.step * place, _shown(item)) for place, item in items]

    def at(self, step: int) -> str:
        centre = next((place for place, (other, _) in enumerate(self._shown) if other >= step), len(self._shown))
        first, last = max(0, centre - _BEFORE), centre + _AFTER
        words = [f"{other} {text}" for other, text in self._shown[first:last]]
        dots = "… " if first else ""
        return f"{self._metric}: {dots}{' · '.join(words)}{' …' if last < len(self._shown) else ''}"


def _shown(item: Item | None) -> str:
    if item is None:
        return "_"
    return f"{item.value:.5g}" if item.value is not None else item.state.value
