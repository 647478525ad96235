"""What every extractor says of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractorSpec:
    """A feature extractor before it is loaded.

    protocol names its preprocessing. locate(explicit path or None) gives the weights file, or raises
    MissingWeightsError saying how to get it. network(weights file) gives a module from preprocessed input to
    float32 (N, dimensions), or raises InputError when the file holds something else. preprocess takes uint8
    (N, 3, H, W) on any device. published_sha256 is how the digest of the well-known weights starts, or "".
    """

    name: str
    dimensions: int
    protocol: str
    locate: Callable[[str | None], str]
    network: Callable[[str], nn.Module]
    preprocess: Callable[[Tensor], Tensor]
    published_sha256: str = ""
