"""How a network is run. An engine takes decoded images and gives features; only its speed may differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from metricwatch.errors import ConfigError, PluginError
from metricwatch.extractors import ExtractorSpec
from metricwatch.protocol import Configure
from metricwatch.worker.device_state import hold_to_float32
from metricwatch.worker.networks import Network

PRECISIONS = ("exact",)
ENGINES = ("auto", "eager")


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


def select_device(wish: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`. Raises ConfigError when this machine has no such device."""
    if wish == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(wish)
    except RuntimeError as error:
        raise ConfigError(f"worker.device {wish!r} is no device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ConfigError(f"worker.device {wish!r} is not supported; use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise ConfigError(f"worker.device is {wish!r}, but torch finds no CUDA device here; use auto or cpu")
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise ConfigError(f"worker.device is {wish!r}, but this machine has {torch.cuda.device_count()} CUDA device(s)")
    return torch.device("cuda", index)


def set_up(configure: Configure) -> torch.device:
    """The device to work on; from then on float32 means float32 in the whole process.

    Raises ConfigError for a device that is not there and for a precision or an engine that is unknown.
    """
    for label, wish, known in (
        ("precision", configure.precision, PRECISIONS),
        ("engine", configure.engine, ENGINES),
    ):
        if wish not in known:
            raise ConfigError(f"worker.{label} {wish!r} is unknown; known: {', '.join(known)}")
    device = select_device(configure.device)
    hold_to_float32()
    return device


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
        pooled = self._ready(self._network.pooled)
        features = torch.cat([pooled(_channels_last(part)) for part in parts])
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

    def _ready(self, module: nn.Module) -> nn.Module:
        """The module on the device, moved at its first use: VGG16's classifier stays away where nobody asks for it."""
        if module not in self._moved:
            # Convolutions are 1.4 times faster in this layout on a CPU, and differ in the last bit only.
            module.eval().requires_grad_(requires_grad=False).to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._moved.add(module)
        return module


def _channels_last(pixels: Tensor) -> Tensor:
    return pixels.contiguous(memory_format=torch.channels_last) if pixels.dim() == 4 else pixels  # noqa: PLR2004 - NCHW


def build_engine(name: str, spec: ExtractorSpec, network: Network, protocol: str, device: torch.device) -> Engine:
    """The engine of that name; `auto` takes the fastest one that is exact here. Raises ConfigError if unknown."""
    if name not in ENGINES:
        raise ConfigError(f"worker.engine {name!r} is unknown; known: {', '.join(ENGINES)}")
    return EagerEngine(spec, network, protocol, device)
