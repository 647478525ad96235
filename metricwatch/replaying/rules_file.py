"""Rules of a file, whatever else is in it: a configuration on a machine without its secrets will do."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from metricwatch.config.composites import Composite, CompositeName
from metricwatch.config.context import Context, Section
from metricwatch.config.environment import interpolate
from metricwatch.config.metrics import known_metrics
from metricwatch.config.problems import Problem, dotted, from_pydantic
from metricwatch.config.rules import Rule
from metricwatch.config.source import parse_yaml
from metricwatch.errors import ConfigError

# What of a configuration rules lean on. The rest of it is neither read nor checked.
_READ = ("rules", "composites")


class _Rules(Section):
    rules: tuple[Rule, ...] = Field(min_length=1)
    composites: dict[CompositeName, Composite] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesFile:
    """The rules of a file; composites by name: higher_is_better."""

    rules: tuple[Rule, ...]
    composites: Mapping[str, bool] = field(default_factory=dict)


def read_rules(path: Path, *, shown: str | None = None, environ: Mapping[str, str] = os.environ) -> RulesFile:
    """The rules of a configuration, or of a file that holds nothing but `rules:`. shown: the file's name in messages.

    `${VAR}` is replaced in them; METRICWATCH_ variables are not heeded: what a file says of its rules is the same on
    every machine. Where the file lists metrics, runs or receivers, rules may name no others. Raises ConfigError with
    one line for each problem.
    """
    name = shown or str(path)
    tree = read_mapping(path, name, "rules:")
    if not tree.get("rules"):
        others = [key for key in tree if isinstance(key, str) and key != "rules"]
        near = [] if "rules" in tree else difflib.get_close_matches("rules", others, n=1)
        hint = f"did you mean rules: instead of {near[0]}: ?" if near else "write rules: with a list of rules"
        raise ConfigError(f"{name}: holds no rules; {hint}")
    problems: list[Problem] = []
    chosen = {key: interpolate(tree[key], environ, problems, (key,)) for key in _READ if tree.get(key) is not None}
    read = None
    try:
        read = _Rules.model_validate(chosen, context=rules_context(tree))
    except ValidationError as error:
        problems += from_pydantic(error, chosen, _Rules)
    if read is None or problems:
        raise ConfigError(said(name, problems))
    return RulesFile(
        rules=read.rules, composites={key: composite.higher_is_better for key, composite in read.composites.items()}
    )


def read_mapping(path: Path, name: str, holds: str) -> dict[Any, Any]:
    """The mapping that a YAML file holds. Raises ConfigError when it is not there, or holds something else."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: not UTF-8 text; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror or error}") from None
    tree = parse_yaml(text, name)
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: must be a mapping with {holds}")
    return tree


def rules_context(tree: Mapping[Any, Any]) -> Context:
    """What the rules of a tree may name, as far as the tree says it."""
    composites, notify = tree.get("composites"), tree.get("notify")
    return Context(
        metrics=known_metrics(_names(tree.get("metrics"))),
        composites=tuple(str(key) for key in composites) if isinstance(composites, dict) else (),
        receivers=tuple(str(key) for key in notify) if isinstance(notify, dict) else None,
    )


def said(name: str, problems: list[Problem]) -> str:
    """The problems of a file, a line each."""
    return "\n".join(
        f"{name}: {dotted(problem.path)}: {problem.message}" if problem.path else f"{name}: {problem.message}"
        for problem in problems
    )


def _names(metrics: Any) -> Any:
    """The metrics' names without their options."""
    if not isinstance(metrics, list):
        return metrics
    return [next(iter(item)) if isinstance(item, dict) and len(item) == 1 else item for item in metrics]
