"""What every extractor says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from metricwatch.extractors.weights import WeightsSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractorSpec:
    """A feature extractor before it is loaded.

    key ends the keys of scores on it (fd_<key>); "" for the one whose scores have names of their own (fid).
    dimensions is the D of its pooled features. protocols are the names of its preprocessings, the first being the
    default. layers are the names of the layer maps it can give, in order, of pictures with no side under
    smallest_side pixels. has_text: it also embeds texts, into the space of its pooled features. module holds
    load(path) -> Network and brings the heavy libraries. license is that of the weights, note a line on what they are.
    """

    name: str
    key: str
    dimensions: int
    protocols: tuple[str, ...]
    layers: tuple[str, ...] = ()
    smallest_side: int = 1
    has_text: bool = False
    weights: WeightsSource
    module: str
    license: str
    note: str
