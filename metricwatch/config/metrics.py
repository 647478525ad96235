"""Reads what the file says of metrics and extractors: names, and the options beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metricwatch import catalog, extractors
from metricwatch.config.options import UnusableOptionsError, bind_options, chosen_options
from metricwatch.config.problems import Problem
from metricwatch.config.secrets import quoted
from metricwatch.errors import PluginError

_FORM = "must be a metric's name, or one name with its options, such as {gram_style_loss: {normalise: hw}}"


@dataclass(slots=True, kw_only=True)
class MetricsRead:
    """The section `metrics`. names holds what is no name at all as it was written.

    options: by metric, those that are not what they would be anyway, ready for JSON. A default that is written out, or
    an option that a later version adds, so starts no new series.
    """

    names: Any
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_metrics(raw: Any, *, where: str, base: Path) -> MetricsRead:
    """Split names from options and bind these to the metrics' Options. Only metrics with options are imported.

    Problems carry their path in the file; `where` is the file's name in messages.
    """
    if not isinstance(raw, list):
        return MetricsRead(names=raw)
    read = MetricsRead(names=[])
    for position, item in enumerate(raw):
        if not isinstance(item, dict):
            read.names.append(item)
            continue
        if len(item) != 1 or not isinstance(next(iter(item)), str):
            read.names.append(item)
            read.problems.append(Problem(("metrics", position), _FORM))
            continue
        ((name, options),) = item.items()
        read.names.append(name)
        # An unknown name is found with the others.
        if options not in (None, {}) and name in catalog.names("metrics"):
            try:
                if chosen := _bound(name, options, f"{where}: metrics[{position}].{name}", base):
                    read.options[name] = chosen
            except UnusableOptionsError as error:
                read.problems += [Problem(("metrics", position, name, *p.path), p.message) for p in error.problems]
            except PluginError as error:
                read.problems.append(Problem(("metrics", position, name), str(error)))
    return read


def _bound(name: str, options: Any, where: str, base: Path) -> dict[str, Any]:
    if not isinstance(options, dict):
        raise UnusableOptionsError(where, [Problem((), "must be a mapping of options to values")])
    cls = catalog.load_metric(name).Options
    if cls is None:
        raise UnusableOptionsError(where, [Problem((), f"the metric {name!r} takes no options")])
    instance = bind_options(cls, {str(key): value for key, value in options.items()}, where, base=base)
    return chosen_options(instance, f"metric {name!r}")


def known_metrics(names: Any) -> tuple[str, ...] | None:
    """The metrics that rules and composites may name; None when the list is not usable at all."""
    if not (isinstance(names, list) and names and all(isinstance(item, str) for item in names)):
        return None
    installed = catalog.names("metrics")
    # Beside a misspelt metric, a rule that spells it right is not wrong as well.
    return tuple(names) if set(names) <= set(installed) else installed


def extractor_problems(raw: Any) -> list[Problem]:
    """What is wrong with the names of extractors, and with the protocols chosen for them."""
    problems = []
    for key, value in raw.items() if isinstance(raw, Mapping) else ():
        name = str(key)
        if name not in extractors.names():
            hint = catalog.did_you_mean(name, extractors.names())
            problems.append(Problem(("extractors", name), f"unknown feature extractor {quoted(name)}; {hint}"))
            continue
        protocol = value.get("protocol") if isinstance(value, Mapping) else None
        offered = extractors.find(name).protocols
        if isinstance(protocol, str) and protocol not in offered:
            hint = catalog.did_you_mean(protocol, offered)
            problems.append(
                Problem(("extractors", name, "protocol"), f"unknown protocol {quoted(protocol)} of {name}; {hint}")
            )
    return problems
