"""What the environment adds to the file: ${VAR} inside strings, and METRICWATCH_... overrides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from metricwatch import faults
from metricwatch.config.problems import Path, Problem, dotted
from metricwatch.config.secrets import quoted
from metricwatch.config.source import parse_yaml
from metricwatch.errors import ConfigError

PREFIX = "METRICWATCH_"

# Variables of that prefix that are not settings of the file.
RESERVED = frozenset({"METRICWATCH_DEBUG", faults.VARIABLE})

_INDEX_DIGITS = 9

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<body>[^}]*)(?P<end>\})?")
_BODY = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.ASCII | re.DOTALL)


def interpolate(node: Any, environ: Mapping[str, str], problems: list[Problem], path: Path = ()) -> Any:
    """The tree with every ${VAR} and ${VAR:-default} in its strings replaced; $${ stands for ${.

    The default serves where the variable is unset or empty. A variable that is missing adds a problem at its key.
    """
    if isinstance(node, dict):
        return {key: interpolate(value, environ, problems, (*path, _step(key))) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolate(value, environ, problems, (*path, index)) for index, value in enumerate(node)]
    if not isinstance(node, str) or "${" not in node:
        return node

    def replace(match: re.Match[str]) -> str:
        if match["body"] is None:
            return "${"
        body = _BODY.fullmatch(match["body"])
        if match["end"] is None or body is None:
            problems.append(
                Problem(path, "a reference is written ${NAME} or ${NAME:-default}; $${ stands for a plain ${")
            )
            return ""
        name, default = body["name"], body["default"]
        value = environ.get(name)
        if default is not None and not value:
            return str(default)
        if value is None:
            problems.append(
                Problem(path, f"the environment variable {name} is not set; set it or write ${{{name}:-default}}")
            )
            return ""
        return value

    return _REFERENCE.sub(replace, node)


@dataclass(kw_only=True)
class Overrides:
    """Which variable each overridden place of the tree came from."""

    leaves: dict[Path, str] = field(default_factory=dict)
    created: dict[Path, str] = field(default_factory=dict)

    def variable_of(self, path: Path) -> str | None:
        """The variable to blame for a problem at a path, or None when the file is."""
        for length in range(len(path), 0, -1):
            if name := self.leaves.get(path[:length]):
                return name
        return self.created.get(path)


def apply_overrides(tree: dict[Any, Any], environ: Mapping[str, str], problems: list[tuple[str, Problem]]) -> Overrides:
    """Write each METRICWATCH_A__B__0__C into the tree at a.b[0].c, its value read as YAML.

    Keys match without regard to case, with _ standing for - as well; the index after the last one appends.
    Problems are added with the name of their variable, never with its value.
    """
    overrides = Overrides()
    for variable in sorted(_settings(environ)):
        parts = variable.removeprefix(PREFIX).lower().split("__")
        if not all(parts):
            problems.append((variable, Problem((), "names no setting; write METRICWATCH_SECTION__KEY")))
            continue
        try:
            value = parse_yaml(environ[variable], variable)
        except ConfigError:
            problems.append((variable, Problem((), "its value is not valid YAML; quote it as in the file")))
            continue
        try:
            _write(tree, parts, value, variable, overrides)
        except LookupError as error:
            problems.append((variable, Problem((), str(error.args[0]))))
    return overrides


def _settings(environ: Mapping[str, str]) -> Iterator[str]:
    return (name for name in environ if name.startswith(PREFIX) and name not in RESERVED)


def _write(tree: dict[Any, Any], parts: list[str], value: Any, variable: str, overrides: Overrides) -> None:
    """Set one value. Raises LookupError saying why there is no such place."""
    node: Any = tree
    path: Path = ()
    for position, part in enumerate(parts):
        key = _key(node, part, path)
        path = (*path, key)
        last = position == len(parts) - 1
        exists = key < len(node) if isinstance(node, list) else key in node
        child = value if last else node[key] if exists else None
        if child is None and not last:
            child = [] if parts[position + 1].isdecimal() else {}
            overrides.created[path] = variable
        if isinstance(node, list) and not exists:
            node.append(child)
        else:
            node[key] = child
        node = child
    overrides.leaves[path] = variable


def _key(node: Any, part: str, path: Path) -> Any:
    if isinstance(node, list):
        # Python refuses to read a number of thousands of digits.
        if part.isdecimal() and len(part) <= _INDEX_DIGITS and int(part) <= len(node):
            return int(part)
        raise LookupError(f"{dotted(path)} is a list of {len(node)}; give an index from 0 to {len(node)}")
    if isinstance(node, dict):
        return next((key for key in node if isinstance(key, str) and _fold(key) == _fold(part)), part)
    raise LookupError(f"{dotted(path)} is a single value and has no {quoted(part)}")


def _fold(key: str) -> str:
    return key.lower().replace("-", "_")


def _step(key: Any) -> str | int:
    return key if isinstance(key, str) else str(key)
