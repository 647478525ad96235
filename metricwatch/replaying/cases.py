"""What a file of rule tests may say, and how it is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator

from metricwatch import catalog
from metricwatch.config.context import Section
from metricwatch.config.problems import Problem, from_pydantic
from metricwatch.config.quantities import PositiveDuration
from metricwatch.config.rules import Rule, StaleRule
from metricwatch.config.secrets import quoted
from metricwatch.errors import ConfigError
from metricwatch.records import Direction, Severity
from metricwatch.replaying.notation import Item, parse_series
from metricwatch.replaying.rules_file import RulesFile, read_mapping, read_rules, said


def _as_text(value: Any) -> Any:
    """A single number is a series of one."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _step_or_never(value: Any) -> Any:
    if value is None or value == _NEVER or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError("must be a step, or never")


_NEVER = "never"
_Where = tuple[str | int, ...]
_Notation = Annotated[str, BeforeValidator(_as_text)]
_Resolved = Annotated[int | Literal["never"] | None, BeforeValidator(_step_or_never)]


class Series(Section):
    """The evaluations of one metric: values, and beside them standard errors and counts of images, in one notation.

    Of stderr and images the last one goes on to the end. From the steps in changed_at on a new series begins, as after
    a change of weights or reference. higher_is_better None: as the metric itself says, else False.
    """

    metric: str = Field(min_length=1)
    values: _Notation
    stderr: _Notation | None = None
    images: _Notation = "1000"
    higher_is_better: bool | None = None
    changed_at: tuple[int, ...] = ()

    @field_validator("values")
    @classmethod
    def _readable(cls, text: str) -> str:
        parse_series(text)
        return text

    @field_validator("stderr")
    @classmethod
    def _errors(cls, text: str | None, info: ValidationInfo[Any]) -> str | None:
        for item in _beside(text, info) if text is not None else ():
            if item is not None and (item.value is None or item.value < 0):
                raise ValueError("a standard error is a number, 0 or more, or _ where it is not known")
        return text

    @field_validator("images")
    @classmethod
    def _counts(cls, text: str, info: ValidationInfo[Any]) -> str:
        for item in _beside(text, info):
            if item is None or item.value is None or item.value < 0 or item.value != int(item.value):
                raise ValueError("a count of images is a whole number, 0 or more")
        return text


def _beside(text: str, info: ValidationInfo[Any]) -> list[Item | None]:
    items = parse_series(text)
    if "values" in info.data and len(items) > (most := len(parse_series(info.data["values"]))):
        raise ValueError(f"has {len(items)} items, and values only {most}: a x N stands for 1 + N of them")
    return items


class Expected(Section):
    """An alert. What is not given is not compared; labels and what: those given must be among, or part of, its own."""

    rule: str
    fired: int
    resolved: _Resolved = None
    direction: Direction | None = None
    severity: Severity | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    what: str | None = None


class ExpectedState(Section):
    """What a rule says at one evaluation."""

    rule: str
    step: int
    state: Literal["inactive", "pending", "firing"]


class Case(Section):
    """One test: a run's evaluations, and all alerts that its rules make of them.

    The first evaluation is at step `step`, each further one as much later. expect None: alerts are not compared.
    """

    name: str = Field(min_length=1)
    run: str = Field(default="test-run", min_length=1)
    total_steps: int | None = Field(default=None, ge=1)
    step: int = Field(default=1000, ge=1)
    series: tuple[Series, ...] = Field(min_length=1)
    expect: tuple[Expected, ...] | None = None
    states: tuple[ExpectedState, ...] = ()

    def steps(self, series: Series) -> list[int]:
        """The steps at which the series has an evaluation."""
        items = enumerate(parse_series(series.values), 1)
        return [self.step * place for place, item in items if item is not None]

    def looked_at(self, rule: Rule) -> list[Series]:
        """The series that a rule is about; of one without a metric all."""
        return [series for series in self.series if rule.metric in {"", series.metric}]

    def steps_of(self, rule: Rule) -> list[int]:
        """The steps at which a rule has an evaluation to look at."""
        return sorted({step for series in self.looked_at(rule) for step in self.steps(series)})


class _File(Section):
    rules: tuple[Rule, ...] = Field(min_length=1)
    evaluation_interval: PositiveDuration = timedelta(minutes=10)
    tests: tuple[Case, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """A file of tests with the rules that they are about."""

    name: str
    rules: RulesFile
    interval: timedelta
    tests: tuple[Case, ...]

    def rule(self, name: str) -> Rule | None:
        """The rule of that name."""
        return next((rule for rule in self.rules.rules if rule.name == name), None)


def read_cases(path: Path, *, environ: Mapping[str, str] = os.environ) -> Cases:
    """The tests in a file. `rules:` there is a list of rules, or names a file with rules beside the file of tests.

    Of that file only rules and what they lean on is read, so that the tests of a configuration need none of its
    secrets. Raises ConfigError with one line for each problem.
    """
    name = str(path)
    tree = read_mapping(path, name, "rules: and tests:")
    rules = tree.get("rules")
    known = None
    if isinstance(rules, str):
        beside = path.parent / rules
        known = read_rules(beside, shown=f"{name}: rules: {rules}", environ=environ)
        tree = {**tree, "rules": known.rules}
    return _checked(name, tree, known)


def _checked(name: str, tree: dict[Any, Any], known: RulesFile | None) -> Cases:
    try:
        read = _File.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(said(name, from_pydantic(error, tree, _File))) from None
    cases = Cases(
        name=name, rules=known or RulesFile(rules=read.rules), interval=read.evaluation_interval, tests=read.tests
    )
    if problems := list(_problems(cases)):
        raise ConfigError(said(name, problems))
    return cases


def _problems(cases: Cases) -> Iterator[Problem]:
    """What is wrong between the parts of a file that are well-formed in themselves."""
    names: set[str] = set()
    for place, case in enumerate(cases.tests):
        where = ("tests", place)
        if case.name in names:
            yield Problem((*where, "name"), f"another test is already named {quoted(case.name)}")
        names.add(case.name)
        if case.expect is None and not case.states:
            yield Problem(where, "expects nothing: write expect: [] where nothing may fire")
        yield from _series_problems(cases, case, where)
        for number, expected in enumerate(case.expect or ()):
            yield from _expected_problems(cases, case, expected, (*where, "expect", number))
        for number, state in enumerate(case.states):
            yield from _state_problems(cases, case, state, (*where, "states", number))


def _series_problems(cases: Cases, case: Case, where: _Where) -> Iterator[Problem]:
    wanted = {rule.metric for rule in cases.rules.rules}
    seen: set[str] = set()
    for number, series in enumerate(case.series):
        here = (*where, "series", number)
        if series.metric in seen:
            yield Problem((*here, "metric"), f"{quoted(series.metric)} has a series already")
        seen.add(series.metric)
        if series.metric not in wanted and "" not in wanted:
            hint = catalog.did_you_mean(series.metric, wanted)
            yield Problem((*here, "metric"), f"no rule looks at {quoted(series.metric)}; {hint}")
        steps = case.steps(series)
        for step in series.changed_at:
            if step not in steps:
                yield Problem((*here, "changed_at"), _no_evaluation(step, steps))


def _expected_problems(cases: Cases, case: Case, expected: Expected, where: _Where) -> Iterator[Problem]:
    rule = cases.rule(expected.rule)
    if rule is None or not case.looked_at(rule):
        yield _unseen(cases, expected.rule, rule, where)
        return
    steps = case.steps_of(rule)
    for key, step in (("fired", expected.fired), ("resolved", expected.resolved)):
        # Before the first evaluation a run has come to step 0.
        if isinstance(step, int) and step not in steps and not (isinstance(rule, StaleRule) and step == 0):
            yield Problem((*where, key), _no_evaluation(step, steps))


def _state_problems(cases: Cases, case: Case, state: ExpectedState, where: _Where) -> Iterator[Problem]:
    rule = cases.rule(state.rule)
    if rule is None or not case.looked_at(rule):
        yield _unseen(cases, state.rule, rule, where)
    elif isinstance(rule, StaleRule):
        yield Problem((*where, "rule"), f"{state.rule} looks at time and has no state at a step; use expect")
    elif state.step not in (steps := case.steps_of(rule)):
        yield Problem((*where, "step"), _no_evaluation(state.step, steps))


def _unseen(cases: Cases, name: str, rule: Rule | None, where: _Where) -> Problem:
    if rule is None:
        hint = catalog.did_you_mean(name, [rule.name for rule in cases.rules.rules])
        return Problem((*where, "rule"), f"unknown rule {quoted(name)}; {hint}")
    return Problem((*where, "rule"), f"{name} looks at {rule.metric}, of which this test has no series")


def _no_evaluation(step: int, steps: Sequence[int]) -> str:
    if not steps:
        return f"there is no evaluation at step {step}, nor at any other"
    nearest = min(steps, key=lambda other: abs(other - step))
    return f"there is no evaluation at step {step}; the nearest is at {nearest}"
