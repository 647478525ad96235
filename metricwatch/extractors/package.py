"""Weights that come inside an installed Python package, which is never imported for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

from metricwatch.extractors.weights import Progress, WeightsSource, silent


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageFile(WeightsSource):
    """A file inside the package `package`, which pip knows as `distribution`.

    also_needs are further packages without which the network cannot be built; install is the command that brings all.
    """

    downloadable: ClassVar[bool] = False

    package: str
    distribution: str
    path: tuple[str, ...]
    also_needs: tuple[str, ...] = ()
    install: str = "pip install 'metricwatch[offline]'"

    def place(self, environ: Mapping[str, str] = os.environ) -> str:  # noqa: ARG002 - the same for every place
        return os.path.join(self.package, *self.path)

    def cached(self, environ: Mapping[str, str] = os.environ) -> str | None:  # noqa: ARG002
        return self._file() if all(find_spec(name) for name in self.also_needs) else None

    def absence(self, environ: Mapping[str, str] = os.environ) -> str:  # noqa: ARG002
        missing = [name for name in self.also_needs if find_spec(name) is None]
        if self._file() is None:
            missing.insert(0, self.distribution)
        return (
            f"the weights {self.path[-1]} come with {self.distribution}; not installed here: {', '.join(missing)}; "
            f"install with: {self.install}, or {self.advice()}"
        )

    def fetch(self, progress: Progress = silent, environ: Mapping[str, str] = os.environ) -> str:  # noqa: ARG002
        """The path of the file. Raises MissingWeightsError with the command to run: pip is the user's business."""
        return self.locate(None, environ)

    def _file(self) -> str | None:
        found = find_spec(self.package)
        for folder in (found.submodule_search_locations or ()) if found else ():
            path = os.path.join(folder, *self.path)
            if os.path.isfile(path):
                return path
        return None
