"""Templates for the words of a message: what they may name, how they are checked, and how they are filled in."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metricwatch import catalog
from metricwatch.config.secrets import quoted
from metricwatch.errors import ConfigError

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

# What a template may name. alert is the Alert itself; title and text are the words that it replaces.
VARIABLES = (
    *("alert", "run", "run_url", "labels", "event", "title", "text", "metric", "rule"),
    *("severity", "direction", "step", "value", "change", "threshold", "window"),
)

# A message is read by people, and no receiver takes more.
MOST_CHARACTERS = 10_000

_LARGEST_POWER = 1000


def check_template(template: str) -> None:
    """Raise ValueError where a template cannot be understood, or names what no message has. Runs nothing of it."""
    from jinja2 import TemplateSyntaxError, meta

    environment = _environment()
    try:
        tree = environment.parse(template)
        unknown = sorted(meta.find_undeclared_variables(tree) - set(VARIABLES))
        elsewhere = any(True for _ in meta.find_referenced_templates(tree))
        # Only this finds a filter that does not exist.
        environment.compile(template)
    except TemplateSyntaxError as error:
        raise ValueError(f"not a template: line {error.lineno}: {_words(error.message)}") from None
    except RecursionError:
        raise ValueError("not a template: nested too deep") from None
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
            if not numbers or (operator == "**" and abs(right) > _LARGEST_POWER):
                raise TypeError(f"{operator} is for two numbers of ordinary size")
            return super().call_binop(context, operator, left, right)

    # Nothing is worked out while a file is only checked.
    return Environment(undefined=StrictUndefined, optimized=False, autoescape=False)
