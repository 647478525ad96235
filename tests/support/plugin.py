"""A metric as somebody else's package brings it: a module and the metadata that points to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from metricwatch import catalog

MODULE = """
from dataclasses import dataclass
from pathlib import Path

from metricwatch.api import ConfigError, Metric, MetricSpec, Secret


@dataclass(frozen=True)
class Options:
    mode: str = "chw"
    words: tuple[str, ...] = ()
    file: Path | None = None
    secret: Secret | None = None

    def __post_init__(self):
        if self.mode not in {"chw", "hw"}:
            raise ConfigError("mode must be chw or hw")


class Odd(Metric):
    spec = MetricSpec(keys=("%(name)s",), higher_is_better=False)
    Options = Options

    def update(self, batch):
        pass

    def merge(self, other):
        pass

    def compute(self):
        return []
"""


def install_metric(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Put a package with one metric, whose Options are mode, words, file and secret, on the path for one test."""
    module = f"plugin_{name}"
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / f"{module}.py").write_text(MODULE % {"name": name})
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[metricwatch.metrics]\n{name} = {module}:Odd\n")
    monkeypatch.syspath_prepend(str(folder))
    forget_plugins()


def forget_plugins() -> None:
    """Have the catalog look anew: it remembers what is installed."""
    for cached in (catalog._entries, catalog._members):
        cached.cache_clear()
