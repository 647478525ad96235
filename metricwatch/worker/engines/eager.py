"""What an engine is, and the plain one that all others are measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from metricwatch.errors import PluginError
from metricwatch.extractors import ExtractorSpec
from metricwatch.worker.networks import Network


class Engine(Protocol):
    """What one network says of pictures on one device. passes counts the pictures that went through it."""

    name: str
    passes: int

    def features(self, images: Sequence[Tensor]) -> Tensor:
        """float32 (N, D) for N uint8 tensors (3, H, W) on the engine's device; sizes may differ."""

    def layers(self, images: Tensor) -> Mapping[str, Tensor]:
        """The maps of the network's layers by name, float32 (N, C, h, w), for uint8 (N, 3, H, W)."""

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings of texts of length 1, float32 (P, D) on the CPU."""


class EagerEngine:
    """The network as written, float32, evaluation mode, on one device.

    Batches with images of several sizes are preprocessed size by size and then go through the network together, save
    where the preprocessing keeps their sizes.
    """

    name = "eager"

    def __init__(self, spec: ExtractorSpec, network: Network, protocol: str, device: torch.device) -> None:
        self.passes = 0
        self._spec = spec
        self._network = network
        self._preprocess = network.preprocess[protocol]
        self._device = device
        self._moved: set[nn.Module] = set()

    @torch.inference_mode()
    def features(self, images: Sequence[Tensor]) -> Tensor:
        by_size: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(index)
        parts = [self._preprocess(torch.stack([images[index] for index in group])) for group in by_size.values()]
        order = [index for group in by_size.values() for index in group]
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        if len({part.shape[1:] for part in parts}) == 1:
            parts = [torch.cat(parts)]
        features = torch.cat([self._pooled(part) for part in parts])
        self.passes += len(images)
        return features.float()[back.to(features.device)]

    @torch.inference_mode()
    def layers(self, images: Tensor) -> Mapping[str, Tensor]:
        if self._network.layers is None or self._network.normalise is None:
            raise PluginError(f"the extractor {self._spec.name!r} has no layer maps to offer")
        maps = self._ready(self._network.layers)(_channels_last(self._network.normalise(images)))
        self.passes += len(images)
        return dict(zip(self._spec.layers, maps, strict=True))

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        if self._network.embed_text is None:
            raise PluginError(f"the extractor {self._spec.name!r} has no text encoder")
        for module in self._network.modules:
            self._ready(module)
        return functional.normalize(self._network.embed_text(prompts).float().cpu(), dim=-1)

    def _pooled(self, pixels: Tensor) -> Tensor:
        features: Tensor = self._ready(self._network.pooled)(_channels_last(pixels))
        return features

    def _ready(self, module: nn.Module) -> nn.Module:
        """The module on the device, moved at its first use: VGG16's classifier stays away where nobody asks for it."""
        if module not in self._moved:
            # Convolutions are 1.4 times faster in this layout on a CPU, and differ in the last bit only.
            module.eval().requires_grad_(requires_grad=False).to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._moved.add(module)
        return module


def _channels_last(pixels: Tensor) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last) if pixels.dim() == 4 else pixels  # noqa: PLR2004 - NCHW
