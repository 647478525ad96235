"""The index of plugins: lists every entry point without importing any, loads one by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

from metricwatch.api import Metric, Notifier, Sampler, Sink
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
    """The names of all installed plugins of a kind, sorted. Imports none of them."""
    return tuple(sorted(_entries(kind)))


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
    """Import one metric. Raises PluginError as load() does."""
    return _load("metrics", name)


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
        raise PluginError(f"unknown {singular} {name!r}; {did_you_mean(name, _entries(kind))}")
    try:
        plugin = entry.load()
    except Exception as error:  # a plugin's import may raise anything
        raise PluginError(f"{singular} {name!r} ({entry.value}) fails on import: {error!r}") from error
    base = _BASES[kind]
    if not (isinstance(plugin, type) and issubclass(plugin, base)):
        raise PluginError(f"{singular} {name!r} ({entry.value}) is not a subclass of metricwatch.api.{base.__name__}")
    if inspect.isabstract(plugin):
        missing = ", ".join(sorted(getattr(plugin, "__abstractmethods__", ())))
        raise PluginError(f"{singular} {name!r} ({entry.value}) does not implement {missing}")
    return plugin
