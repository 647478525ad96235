"""Templates for the words of a message: what they may name, how they are checked, and how they are filled in."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metricwatch import catalog
from metricwatch.config.secrets import quoted
from metricwatch.errors import ConfigError

if TYPE_CHECKING:
    from jinja2.nodes import Template
    from jinja2.sandbox import SandboxedEnvironment

# What a template may name. alert is the Alert itself; title and text are the words that it replaces.
VARIABLES = (
    *("alert", "run", "run_url", "labels", "event", "title", "text", "metric", "rule"),
    *("severity", "direction", "step", "value", "change", "threshold", "window"),
)

# A message is read by people, and no receiver takes more.
MOST_CHARACTERS = 10_000

_LARGEST_POWER = 1000
_MOST_BITS = 4096
_MOST_DIGITS = 2

# They make a long text of a short one in a single step, before anybody can count. format stays, with a limit.
_NO_FILTERS = frozenset({"batch", "center", "indent", "replace", "slice", "wordwrap"})
_NO_METHODS = frozenset(
    {"center", "expandtabs", "format", "format_map", "ljust", "replace", "rjust", "translate", "zfill"}
)
_NO_GLOBALS = frozenset({"cycler", "joiner", "lipsum", "namespace"})
_TOO_WIDE = re.compile(rf"\*|[0-9]{{{_MOST_DIGITS + 1},}}")


def check_template(template: str) -> None:
    """Raise ValueError where a template cannot be understood, or names what no message has. Runs nothing of it.

    Also where it uses what could take all memory: filters and methods that pad, repeat or replace.
    """
    from jinja2 import TemplateSyntaxError, meta

    environment = _environment()
    try:
        tree = environment.parse(template)
        swelling = _swelling(tree)
        if not swelling:
            unknown = sorted(meta.find_undeclared_variables(tree) - set(VARIABLES))
            elsewhere = any(True for _ in meta.find_referenced_templates(tree))
            # Only this finds a filter that does not exist.
            environment.compile(template)
    except TemplateSyntaxError as error:
        raise ValueError(f"not a template: line {error.lineno}: {_words(error.message)}") from None
    except RecursionError:
        raise ValueError("not a template: nested too deep") from None
    if swelling:
        raise ValueError(f"{swelling} is not for messages: it can make a text of any length; remove it")
    if unknown:
        raise ValueError(f"unknown variable {quoted(unknown[0])}; {catalog.did_you_mean(unknown[0], VARIABLES)}")
    if elsewhere:
        raise ValueError("a message's template stands alone: it cannot include, extend or import another one")


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The template filled in, at most MOST_CHARACTERS long. What it cannot show is an error, never left empty.

    Raises ConfigError saying why it failed, whatever that is. It can read the variables and change nothing.
    """
    try:
        parts, room = [], MOST_CHARACTERS
        for part in _environment().from_string(template).generate(dict(variables)):
            parts.append(part)
            room -= len(part)
            if room < 0:
                break
    except Exception as error:  # noqa: BLE001 - a template can fail in as many ways as a program
        reason = _words(str(error)) or type(error).__name__
        raise ConfigError(f"the template failed: {reason}") from None
    if room < 0:
        raise ConfigError(f"the template gives more than {MOST_CHARACTERS} characters")
    return "".join(parts)


def _swelling(tree: Template) -> str:
    """What a template uses of the filters and methods that messages do without, in words, or ""."""
    from jinja2 import nodes

    for node in tree.find_all(
        (nodes.Filter, nodes.Getattr, nodes.Getitem, nodes.Macro, nodes.CallBlock, nodes.For, nodes.Name)
    ):
        if isinstance(node, nodes.Macro | nodes.CallBlock) or (isinstance(node, nodes.For) and node.recursive):
            return "what calls itself (macro, call, recursive)"
        if isinstance(node, nodes.Name) and node.name in _NO_GLOBALS:
            return node.name
        if isinstance(node, nodes.Filter) and node.name in _NO_FILTERS:
            return f"the filter {node.name}"
        name = node.attr if isinstance(node, nodes.Getattr) else None
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
            name = node.arg.value
        # A label may have such a name: labels.replace is none, a text's replace() is.
        of_labels = isinstance(node, nodes.Getattr | nodes.Getitem) and (
            isinstance(node.node, nodes.Name) and node.node.name == "labels"
        )
        if name in _NO_METHODS and not of_labels:
            return f"the method {name}"
    return ""


def _words(message: str | None) -> str:
    text = " ".join((message or "").split()).rstrip(".")
    return quoted(text) if quoted(text) != repr(text) else text


@functools.cache
def _environment() -> SandboxedEnvironment:
    # Not at the top: most configurations have no template.
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    class Environment(SandboxedEnvironment):
        """Refuses what would take the daemon's memory in a single expression."""

        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            numbers = all(isinstance(side, int | float) for side in (left, right))
            if not numbers or (operator == "**" and abs(right) > _LARGEST_POWER) or _bits(operator, left, right):
                raise TypeError(f"{operator} is for two numbers of ordinary size")
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            # Also by the name that an expression gives.
            swells = isinstance(obj, str | bytes) and attr in _NO_METHODS
            return not swells and super().is_safe_attribute(obj, attr, value)

    # Nothing is worked out while a file is only checked.
    environment = Environment(undefined=StrictUndefined, optimized=False, autoescape=False)
    for name in _NO_FILTERS:
        del environment.filters[name]
    for name in _NO_GLOBALS:
        del environment.globals[name]
    environment.filters["format"] = _format
    return environment


def _bits(operator: str, left: Any, right: Any) -> bool:
    """True when a product or power of whole numbers has more digits than anybody reads."""
    if operator == "%" or not (isinstance(left, int) and isinstance(right, int)):
        return False
    bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
    return bits > _MOST_BITS


def _format(value: str, *args: Any, **kwargs: Any) -> str:
    """Jinja's filter format, for widths and precisions of at most two digits."""
    if args and kwargs:
        raise TypeError("format takes values in order or by name, not both")
    if _TOO_WIDE.search(value):
        raise ValueError(f"format takes widths and precisions of at most {_MOST_DIGITS} digits")
    return value % (kwargs or args)
