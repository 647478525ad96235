"""A loaded network: what it computes, and what it wants to be fed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What an extractor computes, on the CPU and in training mode until the caller moves it.

    pooled: preprocessed float32 (N, 3, h, w) to float32 (N, D).
    preprocess: by protocol, uint8 (N, 3, H, W) on any device to the input of pooled, on the same device. h and w are
    the same for all pictures, save for the protocol "art-fid", which keeps every picture's own size: inputs of
    different sizes cannot go through pooled together.
    layers: normalised float32 (N, 3, H, W) to a tuple of maps (N, C, h, w), in the order of ExtractorSpec.layers.
    normalise: uint8 (N, 3, H, W) on any device to the input of layers, at the same size.
    embed_text: P texts to float32 (P, D) on the CPU, not normalised to length 1.
    modules: what holds the weights; the caller moves each to its device and sets it to evaluation mode. pooled and
    layers share their weights where both exist.
    """

    pooled: nn.Module
    preprocess: Mapping[str, Callable[[Tensor], Tensor]]
    layers: nn.Module | None = None
    normalise: Callable[[Tensor], Tensor] | None = None
    embed_text: Callable[[Sequence[str]], Tensor] | None = None
    modules: tuple[nn.Module, ...]
