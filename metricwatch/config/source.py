"""Reads YAML: safe, no duplicate keys, and errors that say line, column and what is wrong."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from metricwatch.errors import ConfigError

_QUOTED = re.compile(r"'(.{2,})'", re.DOTALL)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key} is given twice", problem_mark=key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def parse_yaml(text: str, name: str) -> Any:
    """The document in a text: mappings, lists and scalars.

    Raises ConfigError "name:line:column: what is wrong" that quotes nothing longer than one character of a
    value.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        problem = _unquoted(error.problem or error.context or "not YAML")
        raise ConfigError(f"{place}: {problem}{_hint(problem)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: {error.reason}; the file must be plain UTF-8 text") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # ValueError: an impossible date such as 2024-13-01 is taken for one.
        raise ConfigError(
            f"{name}: not readable as YAML ({type(error).__name__}); quote values that look like dates"
        ) from None


def _unquoted(problem: str) -> str:
    # The parser quotes what it stumbled over, which may be a password that begins with ! or * or &. What it
    # expected it says in its own words, such as <block end>.
    return problem if problem.startswith("expected") else _QUOTED.sub("…", problem)


def _hint(problem: str) -> str:
    if "tab" in problem or r"'\t'" in problem:
        return "; indent with spaces, not tabs"
    if "tag" in problem or "alias" in problem or "anchor" in problem:
        return "; put quotes around a value that begins with !, * or &"
    if "cannot start any token" in problem:
        return "; put quotes around a value that begins with a special character"
    if problem.startswith("expected ',' or"):
        return "; put quotes around text that holds a comma, a bracket or a brace, such as ${NAME}"
    if "mapping values are not allowed" in problem:
        return "; is a line indented wrongly, or does a value hold ': ' without quotes?"
    return ""
