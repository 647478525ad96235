"""Which way is better, as far as it can be known without a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from metricwatch import catalog
from metricwatch.config.composites import PREFIX
from metricwatch.errors import PluginError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rise:
    """Whether higher values are better. assumed: nobody says so of this metric."""

    better: bool
    assumed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Directions:
    """What is known of metrics: composites by name, higher_is_better; and what to assume of the unknown ones."""

    composites: Mapping[str, bool] = field(default_factory=dict)
    otherwise: bool = False

    def of(self, key: str) -> Rise:
        """Of a metric's key, with or without something before its last slash: quality/fid, eval/fid and fid are alike.

        Imports the metrics that may have that key, never a network's library.
        """
        name = key.rpartition("/")[2]
        if name.startswith(PREFIX) and (composite := name.removeprefix(PREFIX)) in self.composites:
            return Rise(better=self.composites[composite])
        for metric in catalog.names("metrics"):
            if name != metric and not name.startswith(f"{metric}_"):
                continue
            try:
                spec = catalog.load_metric(metric).spec
            except PluginError:
                continue
            if name in spec.keys:
                return Rise(better=spec.rises(name))
        return Rise(better=self.otherwise, assumed=True)
