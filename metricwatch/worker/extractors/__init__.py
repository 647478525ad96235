"""Feature extractors: where their weights are, what their network is, how pixels become its input."""

from __future__ import annotations

from importlib import import_module

from metricwatch.catalog import did_you_mean
from metricwatch.errors import PluginError
from metricwatch.worker.extractors.spec import ExtractorSpec

__all__ = ["ExtractorSpec", "find", "names"]

# Name -> module with a SPEC. Modules are imported on first use: each brings its own libraries.
_MODULES = {
    "inception-v3": "metricwatch.worker.extractors.inception",
    "efficientnet-lite0": "metricwatch.worker.extractors.efficientnet_lite0",
}


def names() -> tuple[str, ...]:
    return tuple(_MODULES)


def find(name: str) -> ExtractorSpec:
    """The extractor of that name. Raises PluginError naming the nearest known one."""
    if name not in _MODULES:
        raise PluginError(f"unknown feature extractor {name!r}; {did_you_mean(name, _MODULES)}")
    spec: ExtractorSpec = import_module(_MODULES[name]).SPEC
    return spec
