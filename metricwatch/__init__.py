"""metricwatch: watches a training job's samples, scores them, draws the curves and raises the alarm.

The public API is torch-free: plugin authors import from metricwatch.api, training jobs use metricwatch.snapshot.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metricwatch.hook import snapshot

__version__ = "0.1.0"
__all__ = ["__version__", "snapshot"]


def __getattr__(name: str) -> object:
    # numpy and PIL wait until a training job asks for the hook: the daemon has no use for them.
    if name == "snapshot":
        return import_module("metricwatch.hook").snapshot
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
