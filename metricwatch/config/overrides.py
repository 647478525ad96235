"""What a rule says otherwise for some runs: `runs: {night-*: {moves: 20%}, debug-*: off}`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from metricwatch import catalog
from metricwatch.config.context import Context, refuse_strange_text
from metricwatch.config.problems import unknown_key
from metricwatch.config.secrets import may_hold_secret, quoted

_OFF = "off"
_KEPT = ("name", "metric", "runs")

Model = TypeVar("Model", bound=BaseModel)


def without_runs(rule: Mapping[Any, Any]) -> dict[Any, Any]:
    """The rule as it is for a run that no pattern matches."""
    return {key: value for key, value in rule.items() if key != "runs"}


def overridden(
    cls: type[Model], rule: Mapping[Any, Any], *, keys: Collection[str], kinds: Collection[str], context: Context
) -> dict[str, Model | None]:
    """By pattern, the whole rule as it is for the runs that match; None where it is off for them.

    rule is the mapping of the file, keys what its kind may say, kinds the telling keys of all kinds. A key of an
    override replaces the rule's own. Raises ValidationError with the place of each problem, runs.PATTERN.key.
    """
    raw = rule.get("runs")
    if not isinstance(raw, Mapping):
        return {}
    problems: list[InitErrorDetails] = []
    merged: dict[str, Model | None] = {}
    for pattern, given in raw.items():
        place = ("runs", pattern)
        if not isinstance(pattern, str):
            problems.append(_problem("a pattern is text; put quotes around it", place))
        elif complaint := _unusable(pattern, merged, context.run_names):
            problems.append(_problem(complaint, place))
        elif given is False or given == _OFF:
            merged[pattern] = None
        elif not isinstance(given, Mapping):
            problems.append(_problem("must be off, or a mapping of the keys that differ", place))
        elif refused := [_problem(why, (*place, str(key))) for key in given if (why := _refused(key, keys, kinds))]:
            problems += refused
        else:
            # Its name is that of the rule, which is taken by now.
            alone = replace(context, rule_names=set())
            try:
                merged[pattern] = cls.model_validate({**without_runs(rule), **given}, context=alone)
            except ValidationError as error:
                problems += [_moved(item, place) for item in error.errors(include_url=False, include_input=False)]
    if problems:
        raise ValidationError.from_exception_data(cls.__name__, problems, hide_input=True)
    return merged


def overriding(overrides: Mapping[str, Model | None], run_name: str, otherwise: Model) -> Model | None:
    """What the first pattern that matches a run's name leads to."""
    for pattern, rule in overrides.items():
        if fnmatchcase(run_name, pattern):
            return rule
    return otherwise


def _unusable(pattern: str, earlier: Mapping[str, object], names: tuple[str, ...] | None) -> str:
    """Why a pattern can never be the one that counts, or ""."""
    try:
        refuse_strange_text(pattern)
    except ValueError as error:
        return str(error)
    if names is None:
        return ""
    matched = [name for name in names if fnmatchcase(name, pattern)]
    if not matched:
        shown = [name for name in names if not may_hold_secret(name)]
        return f"matches no run: {catalog.did_you_mean(pattern, shown)}"
    taken = [next((other for other in earlier if fnmatchcase(name, other)), None) for name in matched]
    if all(taken):
        return f"never counts: {quoted(str(taken[0]))} before it matches the same runs, and the first match wins"
    return ""


def _refused(key: object, keys: Collection[str], kinds: Collection[str]) -> str:
    """Why an override cannot say this key, or ""."""
    if key in _KEPT:
        return "is the same for all runs; write a rule of its own for what differs in it"
    if key in keys:
        return ""
    if key in kinds:
        return "would make it a rule of another kind; write a rule of its own"
    return unknown_key(key, set(keys) - set(_KEPT))


def _problem(message: str, place: tuple[str | int, ...]) -> InitErrorDetails:
    return {"type": PydanticCustomError("override", "{told}", {"told": message}), "loc": place, "input": None}


def _moved(item: Any, place: tuple[str | int, ...]) -> InitErrorDetails:
    """A problem of the merged rule, at the place of the override that brought it."""
    told = item.get("ctx", {}).get("error") if item["type"] == "value_error" else None
    kind = "override" if told is not None else item["type"]
    message = str(told) if told is not None else item["msg"]
    error = PydanticCustomError(kind, "{told}", {"told": message})
    return {"type": error, "loc": (*place, *item["loc"]), "input": None}
