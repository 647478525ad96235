"""Weights that are one file in torch hub's cache, where torchvision, lpips and pytorch-fid put theirs too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from metricwatch.errors import MissingWeightsError
from metricwatch.extractors.weights import Progress, WeightsSource, silent


def checkpoints(environ: Mapping[str, str] = os.environ) -> str:
    """The folder torch.hub downloads into, by the same variables (torch/hub.py, _get_torch_home)."""
    home = environ.get("TORCH_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    return os.path.join(os.path.expanduser(home), "hub", "checkpoints")


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchHubFile(WeightsSource):
    """A file in torch hub's cache, by the name under which its own library looks for it."""

    url: str
    file_name: str

    def place(self, environ: Mapping[str, str] = os.environ) -> str:
        return os.path.join(checkpoints(environ), self.file_name)

    def cached(self, environ: Mapping[str, str] = os.environ) -> str | None:
        path = self.place(environ)
        return path if os.path.isfile(path) else None

    def absence(self, environ: Mapping[str, str] = os.environ) -> str:
        return (
            f"{self.place(environ)} is not there; fetch it with: metricwatch weights fetch {self.extractor}, "
            f"or put {self.url} there, or {self.advice()}"
        )

    def fetch(self, progress: Progress = silent, environ: Mapping[str, str] = os.environ) -> str:
        path = self.place(environ)
        if os.path.isfile(path):
            found = self.digest(path)
            if found.startswith(self.published):
                return path
            raise MissingWeightsError(
                f"{self.extractor}: {path} is there, but it is not the published file: its SHA-256 begins {found[:8]}, "
                f"not {self.published}; remove it and fetch again, or {self.advice()}"
            )
        from metricwatch.extractors.download import download

        try:
            download(self.url, path, published=self.published, progress=progress)
        except (MissingWeightsError, OSError) as error:
            raise MissingWeightsError(
                f"{self.extractor}: the weights {self.file_name} are not at {path}, and downloading them failed: "
                f"{error}. Fetch {self.url} on a machine with internet and put the file there, or {self.advice()}"
            ) from error
        return path
