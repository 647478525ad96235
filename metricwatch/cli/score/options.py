"""What was typed after `metricwatch score`, checked and turned into what the worker is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from metricwatch import catalog, extractors
from metricwatch.config.composites import Composite
from metricwatch.config.context import Context
from metricwatch.config.expressions import PROGRESS
from metricwatch.config.metrics import read_metrics
from metricwatch.config.problems import dotted
from metricwatch.config.quantities import parse_size
from metricwatch.errors import InputError


def metric_names(metrics: str | None, *, reference: bool, content: bool, prompt: bool) -> tuple[str, ...]:
    """The metrics asked for, by default those that what was given is good for."""
    if metrics is None:
        wanted = [*(["fid"] if reference else []), *(["ssim"] if content else []), *(["clip_score"] if prompt else [])]
        if not wanted:
            raise typer.BadParameter(
                "give --reference (for fid), --content (for ssim) or --prompt (for clip_score), or name --metrics"
            )
        return tuple(wanted)
    wanted = [name.strip() for name in metrics.split(",") if name.strip()]
    known = catalog.names("metrics")
    for name in wanted:
        if name not in known:
            raise typer.BadParameter(f"unknown metric {name!r}; {catalog.did_you_mean(name, known)}")
    if not wanted:
        raise typer.BadParameter("--metrics names none")
    return tuple(dict.fromkeys(wanted))


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise typer.BadParameter(f"must be {' or '.join(allowed)}, not {value!r}", param_hint=option)
    return value


def prompt(value: str) -> str:
    """A prompt without the blanks around it; "" for one of blanks alone."""
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise typer.BadParameter("is not UTF-8 text", param_hint="--prompt")
    return value.strip()


def size(option: str, value: str) -> int:
    try:
        return parse_size(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def weights(pairs: Sequence[str]) -> dict[str, str]:
    """By extractor, an explicit file (or a folder, for those that come as one)."""
    found = {}
    for name, path in _pairs("--weights", pairs, "EXTRACTOR=FILE"):
        _known_extractor("--weights", name)
        if not Path(path).exists():
            raise InputError(f"{path}: no such file (--weights {name})")
        found[name] = str(Path(path).resolve())
    return found


def protocols(pairs: Sequence[str]) -> dict[str, str]:
    """By extractor, one of its named preprocessings."""
    found = {}
    for name, protocol in _pairs("--protocol", pairs, "EXTRACTOR=NAME"):
        _known_extractor("--protocol", name)
        offered = extractors.find(name).protocols
        if protocol not in offered:
            hint = catalog.did_you_mean(protocol, offered)
            raise typer.BadParameter(f"{name} has no protocol {protocol!r}; {hint}", param_hint="--protocol")
        found[name] = protocol
    return found


def metric_options(pairs: Sequence[str], names: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    """By metric, its options: METRIC.KEY=VALUE, the value read as YAML."""
    import yaml

    given: dict[str, dict[str, Any]] = {}
    for target, text in _pairs("--option", pairs, "METRIC.KEY=VALUE"):
        metric, dot, key = target.partition(".")
        if not (dot and key):
            raise typer.BadParameter(f"{target!r} is not of the form METRIC.KEY", param_hint="--option")
        if metric not in names:
            hint = catalog.did_you_mean(metric, names)
            raise typer.BadParameter(f"{metric!r} is not asked for; {hint}", param_hint="--option")
        try:
            given.setdefault(metric, {})[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"{text!r} cannot be read: {error}", param_hint="--option") from None
    read = read_metrics([{name: values} for name, values in given.items()], where="--option", base=Path.cwd())
    if read.problems:
        complaints = (f"{dotted(problem.path[2:])}: {problem.message}" for problem in read.problems)
        raise typer.BadParameter("; ".join(complaints), param_hint="--option")
    return read.options


def composites(pairs: Sequence[str], names: tuple[str, ...], *, p: float | None) -> dict[str, Composite]:
    """By name, expressions over the metrics asked for."""
    from pydantic import TypeAdapter, ValidationError

    from metricwatch.config.composites import CompositeName

    found: dict[str, Composite] = {}
    context = Context(metrics=names)
    for name, expression in _pairs("--composite", pairs, "NAME=EXPRESSION"):
        try:
            TypeAdapter(CompositeName).validate_python(name, context=context)
            found[name] = Composite.model_validate(expression.strip(), context=context)
        except ValidationError as error:
            reasons = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
            raise typer.BadParameter(f"{name}: {reasons}", param_hint="--composite") from None
        if p is None and PROGRESS in found[name].parsed.names:
            raise typer.BadParameter(f"{name}: uses p, the training's progress; give --p", param_hint="--composite")
    return found


def _pairs(option: str, pairs: Sequence[str], form: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name.strip() and equals and value):
            raise typer.BadParameter(f"{pair!r} is not of the form {form}", param_hint=option)
        if any(name.strip() == known for known, _ in found):
            raise typer.BadParameter(f"{name.strip()!r} is given twice", param_hint=option)
        found.append((name.strip(), value))
    return found


def _known_extractor(option: str, name: str) -> None:
    if name not in extractors.names():
        hint = catalog.did_you_mean(name, extractors.names())
        raise typer.BadParameter(f"unknown feature extractor {name!r}; {hint}", param_hint=option)
