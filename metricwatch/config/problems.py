"""What is wrong with a configuration, one line each: where, what, and what would be right."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Tag, ValidationError

from metricwatch import catalog
from metricwatch.config.context import NotInFile
from metricwatch.config.secrets import may_hold_secret

Path = tuple[str | int, ...]

REQUIRED = "required, but not given"

_WORDS = {
    "missing": REQUIRED,
    "string_type": "must be text; put quotes around it if it looks like a number, a date or yes/no",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "dataclass_type": "must be a mapping of keys to values",
    "path_type": "must be a path",
    "string_too_short": "must not be empty",
    "too_short": "must have at least one item",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, at a path of keys and list indices. The message never holds a value's secret."""

    path: Path
    message: str


def dotted(path: Path) -> str:
    """The path as it is written in messages: watch[0].samples. A key that may be a secret is left out."""
    text = ""
    for part in path:
        key = "(an address, not shown)" if may_hold_secret(str(part)) else str(part)
        text += f"[{part}]" if isinstance(part, int) else f".{key}" if text else key
    return text


def unknown_key(key: object, known: Iterable[str]) -> str:
    """The message about a key that does not exist here."""
    return f"unknown key; {catalog.did_you_mean(str(key), known)}"


def from_pydantic(error: ValidationError, raw: Any, model: type[BaseModel] | None = None) -> list[Problem]:
    """The problems of a failed validation of `raw`. With `model`, unknown keys name the nearest known one."""
    problems: list[Problem] = []
    for item in error.errors(include_url=False, include_context=True, include_input=False):
        path = _within(raw, item["loc"], missing=item["type"] == "missing")
        if item["type"] == "extra_forbidden":
            message = unknown_key(path[-1], _keys_at(model, item["loc"][:-1]) if model else ())
        elif item["type"] == "value_error":
            message = str(item.get("ctx", {}).get("error", item["msg"]))
        else:
            message = _WORDS.get(item["type"]) or _reword(item["msg"])
        problem = Problem(path, message)
        # pydantic counts only the items that are right: a list of one wrong item is not an empty list.
        echo = item["type"] == "too_short" and any(other.path[: len(path)] == path for other in problems)
        if problem not in problems and not echo:
            problems.append(problem)
    return problems


def _reword(message: str) -> str:
    message = message.replace("Input should be", "must be").replace("greater than or equal to", "at least")
    return message.replace("less than or equal to", "at most")


def _within(raw: Any, location: Sequence[str | int], *, missing: bool) -> Path:
    """The part of pydantic's location that exists in the file: it also names unions and validators."""
    path: list[str | int] = []
    node = raw
    for position, part in enumerate(location):
        if _holds(node, part):
            node = node[part]
        elif _is_field(node, part) or (missing and position == len(location) - 1):
            node = None
        else:
            continue
        path.append(part)
    return tuple(path)


def _holds(node: Any, part: str | int) -> bool:
    if isinstance(node, list):
        return isinstance(part, int) and part < len(node)
    return isinstance(node, dict) and part in node


def _is_field(node: Any, part: str | int) -> bool:
    """True for a key that could have been written: a default that failed has no node of its own."""
    return isinstance(node, dict) and isinstance(part, str) and part.isidentifier()


def _keys_at(model: type[BaseModel], location: Sequence[str | int]) -> tuple[str, ...]:
    """The keys that may be written at a location of pydantic's, which also names the chosen member of a union."""
    here: Any = model
    for part in location:
        if (member := _member(here, part)) is not None:
            here = member
        elif isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(part))
            here = field.annotation if field else None
        else:
            here = _item(here)
        here = _plain(here)
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        return ()
    return tuple(
        field.alias or name
        for name, field in here.model_fields.items()
        if not any(isinstance(mark, NotInFile) for mark in field.metadata)
    )


def _member(annotation: Any, tag: str | int) -> Any:
    """The member of a union that carries a tag, or None."""
    for member in typing.get_args(annotation):
        if any(isinstance(mark, Tag) and mark.tag == tag for mark in typing.get_args(member)[1:]):
            return typing.get_args(member)[0]
    return None


def _plain(annotation: Any) -> Any:
    """The annotation without what Annotated adds and without `| None`."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _plain(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        kept = [item for item in typing.get_args(annotation) if item is not type(None)]
        return kept[0] if len(kept) == 1 else annotation
    return annotation


def _item(annotation: Any) -> Any:
    """What a container holds: the values of a mapping, the elements of a sequence."""
    arguments = typing.get_args(annotation)
    if not arguments:
        return None
    return arguments[1] if typing.get_origin(annotation) is dict else arguments[0]
