"""Feature extractors: what each is, where its weights are, which module builds its network. Torch-free."""

from __future__ import annotations

import difflib

from metricwatch.errors import PluginError
from metricwatch.extractors.registry import SPECS
from metricwatch.extractors.spec import ExtractorSpec
from metricwatch.extractors.weights import Progress, WeightsSource

__all__ = ["ExtractorSpec", "Progress", "WeightsSource", "find", "names"]

_BY_NAME = {spec.name: spec for spec in SPECS}


def names() -> tuple[str, ...]:
    """The names of all extractors, in the registry's order."""
    return tuple(_BY_NAME)


def find(name: str) -> ExtractorSpec:
    """The extractor of that name. Raises PluginError naming the nearest known one."""
    if name not in _BY_NAME:
        near = difflib.get_close_matches(name, _BY_NAME, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_BY_NAME)}"
        raise PluginError(f"unknown feature extractor {name!r}; {hint}")
    return _BY_NAME[name]
