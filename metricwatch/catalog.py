"""The index of plugins: lists every entry point without importing any, loads one by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from metricwatch import extractors
from metricwatch.api import ExtractorInfo, Metric, MetricFamily, Notifier, Sampler, Sink
from metricwatch.errors import PluginError

Kind = Literal["metrics", "samplers", "sinks", "notifiers"]

_BASES: dict[Kind, type] = {
    "metrics": Metric,
    "samplers": Sampler,
    "sinks": Sink,
    "notifiers": Notifier,
}
KINDS: tuple[Kind, ...] = tuple(_BASES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginInfo:
    """One installed plugin, known from its package's metadata alone."""

    kind: Kind
    name: str
    target: str
    package: str
    version: str


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The tail of an error message: the nearest known name, or all of them when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none is installed"


@cache
def _entries(kind: Kind) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"metricwatch.{kind}")}


def names(kind: Kind) -> tuple[str, ...]:
    """The names of all installed plugins of a kind, sorted. Imports none of them.

    A family of metrics is there with a name for each extractor.
    """
    single = {name for name in _entries(kind) if not name.endswith("_")}
    return tuple(sorted(single | set(_members()) if kind == "metrics" else single))


@cache
def _members() -> dict[str, tuple[str, ExtractorInfo]]:
    """The metrics of families by name: the family's entry and the extractor."""
    specs = [extractors.find(name) for name in extractors.names()]
    return {
        f"{family}{spec.key}": (family, ExtractorInfo(name=spec.name, key=spec.key, dimensions=spec.dimensions))
        for family in _entries("metrics")
        if family.endswith("_")
        for spec in specs
        if spec.key
    }


def plugins() -> tuple[PluginInfo, ...]:
    """Every installed plugin with the package that brought it. Imports none of them."""
    return tuple(
        PluginInfo(
            kind=kind,
            name=entry.name,
            target=entry.value,
            package=entry.dist.name if entry.dist else "?",
            version=entry.dist.version if entry.dist else "?",
        )
        for kind in KINDS
        for entry in sorted(_entries(kind).values())
    )


def load_metric(name: str) -> type[Metric]:
    """Import one metric, or make the member of a family. The same name always gives the same class.

    Raises PluginError when it is unknown, fails on import or is no metric.
    """
    if name in _entries("metrics") or name not in _members():
        return _load("metrics", name)
    family, info = _members()[name]
    entry = _entries("metrics")[family]
    make: MetricFamily = _import("metric family", entry)
    try:
        metric = make(info)
    except Exception as error:  # a plugin may raise anything
        raise PluginError(f"metric {name!r} ({entry.value}) cannot be made: {error!r}") from error
    return _checked("metrics", name, entry, metric)


def load_sampler(name: str) -> type[Sampler]:
    """Import one sampler. Raises PluginError as load() does."""
    return _load("samplers", name)


def load_sink(name: str) -> type[Sink]:
    """Import one sink. Raises PluginError as load() does."""
    return _load("sinks", name)


def load_notifier(name: str) -> type[Notifier]:
    """Import one notifier. Raises PluginError as load() does."""
    return _load("notifiers", name)


def _load(kind: Kind, name: str) -> type:
    """Import one plugin. Raises PluginError when it is unknown, fails on import or is of another kind."""
    singular = kind.removesuffix("s")
    entry = _entries(kind).get(name)
    if entry is None:
        raise PluginError(f"unknown {singular} {name!r}; {did_you_mean(name, names(kind))}")
    return _checked(kind, name, entry, _import(singular, entry))


def _import(what: str, entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # a plugin's import may raise anything
        raise PluginError(f"{what} {entry.name!r} ({entry.value}) fails on import: {error!r}") from error


def _checked(kind: Kind, name: str, entry: EntryPoint, plugin: object) -> type:
    singular, base = kind.removesuffix("s"), _BASES[kind]
    if not (isinstance(plugin, type) and issubclass(plugin, base)):
        raise PluginError(f"{singular} {name!r} ({entry.value}) is not a subclass of metricwatch.api.{base.__name__}")
    if inspect.isabstract(plugin):
        missing = ", ".join(sorted(getattr(plugin, "__abstractmethods__", ())))
        raise PluginError(f"{singular} {name!r} ({entry.value}) does not implement {missing}")
    return plugin
