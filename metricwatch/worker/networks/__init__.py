"""The networks of feature extractors, and how pixels become their input."""

from __future__ import annotations

from importlib import import_module

from metricwatch.extractors import ExtractorSpec
from metricwatch.worker.networks.network import Network

__all__ = ["Network", "load"]


def load(spec: ExtractorSpec, path: str) -> Network:
    """Build an extractor's network from its weights. Imports the libraries it needs.

    Raises InputError when the path holds something else, MissingWeightsError when a library is not installed.
    """
    network: Network = import_module(spec.module).load(path)
    return network
