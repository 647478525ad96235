"""Turns what a user wrote beside a plugin's name into an instance of that plugin's Options dataclass."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from metricwatch.api import Secret
from metricwatch.config.context import absolute_path, refuse_strange_text
from metricwatch.config.problems import REQUIRED, Problem, dotted, from_pydantic, unknown_key
from metricwatch.config.quantities import parse_duration
from metricwatch.config.secrets import read_secret
from metricwatch.errors import ConfigError, PluginError

Options = TypeVar("Options")


class UnusableOptionsError(ConfigError):
    """The options do not fit the plugin. problems carry paths relative to where the options were written."""

    def __init__(self, where: str, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        lines = (f"{_join(where, dotted(problem.path))}: {problem.message}" for problem in problems)
        super().__init__("\n".join(lines))


def bind_options(cls: type[Options], raw: Mapping[str, Any], where: str, *, base: Path | None = None) -> Options:
    """An instance of a plugin's Options dataclass from a mapping of the file.

    A field may be written under another key, `field(metadata={"key": "from"})`. A field of type Secret may
    instead be given as `<key>_file`, whose content is taken without surrounding white space. Durations are read
    as everywhere in the file; relative paths resolve against `base`, by default the working directory.
    `where` starts every message: "metricwatch.yaml: notify.team". Raises ConfigError with one line for each
    problem, none of which repeats a value; PluginError when the dataclass itself cannot be read.
    """
    shape = _Shape(cls, where)
    values, problems = shape.read(raw, base or Path.cwd())
    done = {shape.files.get(str(problem.path[0]), problem.path[0]) for problem in problems}
    try:
        instance = shape.adapter.validate_python(values)
    except ValidationError as error:
        explained = shape.explain(error, values)
        problems += [problem for problem in explained if not problem.path or problem.path[0] not in done]
    except ConfigError as error:
        problems.append(Problem((), shape.scrub(str(error), values)))
    if problems:
        raise UnusableOptionsError(where, problems)
    return instance


def chosen_options(options: Any, whose: str) -> dict[str, Any]:
    """The fields that differ from their defaults, ready for JSON: what the worker is told.

    A default that is written out, or an option that a later version adds, so starts no new series. Raises PluginError
    for values that have no form in JSON.
    """
    values = dataclasses.asdict(options)
    chosen = {
        item.name: values[item.name]
        for item in dataclasses.fields(options)
        if item.init and getattr(options, item.name) != _default(item)
    }
    try:
        plain: dict[str, Any] = json.loads(json.dumps(chosen, default=_in_json))
    except TypeError as error:
        raise PluginError(f"the options of {whose} cannot be handed to the worker: {error}") from error
    return plain


def _default(item: dataclasses.Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default


def _in_json(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class _Shape(Generic[Options]):
    """What a plugin's Options look like from the file's side. fields maps a key to a field's name."""

    def __init__(self, cls: type[Options], where: str) -> None:
        try:
            self.fields = {
                str(item.metadata.get("key", item.name)): item.name
                for item in dataclasses.fields(cls)  # type: ignore[arg-type]
                if item.init
            }
            self.hints = typing.get_type_hints(cls)
            self.adapter = TypeAdapter(cls)
        except (TypeError, NameError, PydanticUserError) as error:
            raise PluginError(f"{where}: the plugin's Options {cls!r} cannot be read: {error}") from error
        self.secrets = {key for key, name in self.fields.items() if _is(self.hints[name], Secret)}
        self.files = {f"{key}_file": key for key in self.secrets if f"{key}_file" not in self.fields}

    def read(self, raw: Mapping[str, Any], base: Path) -> tuple[dict[str, Any], list[Problem]]:
        """Values by field name, and what is wrong with the keys themselves."""
        values: dict[str, Any] = {}
        problems: list[Problem] = []
        for key, value in raw.items():
            target = self.files.get(key, key)
            if target not in self.fields:
                problems.append(Problem((str(key),), unknown_key(key, {*self.fields, *self.files})))
            elif target != key and target in raw:
                problems.append(Problem((key,), f"given together with {target}; keep one of the two"))
            else:
                name = self.fields[target]
                try:
                    values[name] = _secret(value, base) if target != key else _plain(value, self.hints[name], base)
                except (ConfigError, ValueError) as error:
                    problems.append(Problem((key,), str(error)))
        return values, problems

    def explain(self, error: ValidationError, values: Mapping[str, Any]) -> list[Problem]:
        """What pydantic complains of, under the keys of the file."""
        keys = {name: key for key, name in self.fields.items()}
        problems = []
        for problem in from_pydantic(error, values):
            path = (keys.get(str(problem.path[0]), problem.path[0]), *problem.path[1:]) if problem.path else ()
            message = self.scrub(problem.message, values)
            if message == REQUIRED and path[0] in self.secrets:
                message = f"{REQUIRED}; write {path[0]} or {path[0]}_file"
            problems.append(Problem(path, message))
        return problems

    def scrub(self, message: str, values: Mapping[str, Any]) -> str:
        """The message without the secrets: a plugin's own complaint may quote what it was given."""
        for key in self.secrets:
            value = values.get(self.fields[key])
            if value:
                message = message.replace(str(value), "******")
        return message


def _plain(value: Any, hint: Any, base: Path) -> Any:
    for text in value if isinstance(value, list) else (value,):
        if isinstance(text, str):
            refuse_strange_text(text)
    if _is(hint, timedelta) and value is not None:
        return parse_duration(value)
    if _is(hint, Path) and isinstance(value, str):
        return absolute_path(Path(value), base)
    return value


def _secret(value: Any, base: Path) -> str:
    if isinstance(value, str) and value:
        refuse_strange_text(value)
        return read_secret(absolute_path(Path(value), base))
    raise ValueError("must be the path of a file")


def _is(hint: Any, wanted: type) -> bool:
    """True for the type itself and for `type | None`."""
    union = typing.get_origin(hint) in {typing.Union, types.UnionType}
    return hint is wanted or (union and wanted in typing.get_args(hint))


def _join(where: str, path: str) -> str:
    return f"{where}.{path}" if path and not path.startswith("[") else f"{where}{path}"
