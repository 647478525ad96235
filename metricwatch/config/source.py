"""Reads YAML: safe, no duplicate keys, and errors that say line, column and what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import Any

import yaml

from metricwatch.config.secrets import quoted
from metricwatch.errors import ConfigError

# Far beyond any configuration written by hand. Aliases of aliases multiply: a few lines can stand for millions.
_MAX_VALUES = 100_000
_MAX_DEPTH = 50

_QUOTED = re.compile(r"'(.{2,})'", re.DOTALL)
_TAG = "tag:yaml.org,2002:"


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
                        problem=f"the key {_shown(key)} is given twice", problem_mark=key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _checked(construct: Callable[[Any, Any], Any], problem: str) -> Callable[[Any, Any], Any]:
    """The constructor of a scalar, whose various complaints become one error at the scalar's place."""

    def checked(loader: _Loader, node: yaml.Node) -> Any:
        try:
            return construct(loader, node)
        except (ValueError, OverflowError, LookupError, AttributeError):
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark) from None

    return checked


for _name, _problem in {
    "bool": "must be true or false",
    "int": "not a number that can be read, or one of thousands of digits",
    "float": "not a number that can be read",
    "timestamp": "no such date; put quotes around text that looks like a date",
}.items():
    _construct = _checked(_Loader.yaml_constructors[_TAG + _name], _problem)
    _Loader.add_constructor(_TAG + _name, _construct)


def parse_yaml(text: str, name: str) -> Any:
    """The document in a text: mappings, lists and scalars.

    Raises ConfigError "name:line:column: what is wrong" that quotes nothing longer than one character of a
    value.
    """
    try:
        # Building the loader reads the text already.
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, name)
        return loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raw = error.problem or error.context or "not YAML"
        raise ConfigError(f"{place}: {_unquoted(raw)}{_hint(raw)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: {error.reason}; the file must be plain UTF-8 text") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested deeper than {_MAX_DEPTH} levels") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name}: not readable as YAML ({type(error).__name__})") from None


def _measure(root: yaml.Node, name: str) -> None:
    """Raise ConfigError where a document holds itself, or is larger than anybody means it to be.

    Each node is looked at once, however many aliases lead to it.
    """
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node) -> int:
        if not isinstance(node, yaml.CollectionNode):
            return 1
        place = f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
        if id(node) in above:
            raise ConfigError(f"{place}: an alias leads back to where it stands: this would never end")
        if len(above) >= _MAX_DEPTH:
            raise ConfigError(f"{place}: nested deeper than {_MAX_DEPTH} levels")
        if id(node) not in sizes:
            above.add(id(node))
            pairs = isinstance(node, yaml.MappingNode)
            sizes[id(node)] = 1 + sum(size(item) for child in node.value for item in (child if pairs else (child,)))
            above.remove(id(node))
        if sizes[id(node)] > _MAX_VALUES:
            raise ConfigError(f"{place}: more than {_MAX_VALUES:,} values once its aliases are followed")
        return sizes[id(node)]

    size(root)


def _shown(key: object) -> str:
    return quoted(key).strip("'") if isinstance(key, str) else str(key)


def _unquoted(problem: str) -> str:
    # The parser quotes what it stumbled over, which may be a password that begins with ! or * or &. What it
    # expected it says in its own words, such as <block end>.
    return problem if problem.startswith("expected") else _QUOTED.sub("…", problem)


def _hint(raw: str) -> str:
    # Only the raw text still shows the tab; every other hint goes by the parser's own words.
    if r"'\t'" in raw:
        return "; indent with spaces, not tabs"
    problem = _unquoted(raw)
    if "tag" in problem or "alias" in problem or "anchor" in problem:
        return "; put quotes around a value that begins with !, * or &"
    if "cannot start any token" in problem:
        return "; put quotes around a value that begins with a special character"
    if problem.startswith("expected ',' or"):
        return "; put quotes around text that holds a comma, a bracket or a brace, such as ${NAME}"
    if "mapping values are not allowed" in problem:
        return "; is a line indented wrongly, or does a value hold ': ' without quotes?"
    return ""
