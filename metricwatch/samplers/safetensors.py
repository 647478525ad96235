"""The sampler `safetensors`: weights in any format that can be read safely, for a network of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metricwatch.api import Checkpoint, ConfigError, Ema

from . import functions
from .latents import LatentNetwork, LatentOptions, LatentSampler


@dataclass(frozen=True, slots=True, kw_only=True)
class SafetensorsOptions(LatentOptions):
    """factory: "module:function" that makes the network (a torch.nn.Module), in a module that can be imported, or one
    in the folder path; it is called with `arguments` by name. at: where in the checkpoint the weights are, where that
    is not plain. ema: whether the moving average of the weights is taken: auto (where there is one), always, never.
    """

    factory: str
    path: Path | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    at: str = ""
    ema: Ema = "auto"

    def __post_init__(self) -> None:
        # Not super(): slots make another class of this one.
        LatentOptions.__post_init__(self)
        functions.check_reference(self.factory, "factory", self.path)


class SafetensorsSampler(LatentSampler):
    """Makes the network, loads all of its weights from the checkpoint, and calls it with noise in evaluation mode."""

    Options = SafetensorsOptions

    def load(self, checkpoint: Checkpoint, device: str) -> LatentNetwork:
        from torch import nn

        reference = self.options.factory
        factory = functions.find(reference, self.options.path, "factory")
        with functions.blaming(f"factory {reference}"):
            module = factory(**self.options.arguments)
        if not isinstance(module, nn.Module):
            raise ConfigError(f"factory {reference!r} gave a {type(module).__name__}; wanted is a torch.nn.Module")
        checkpoint.load_into(module, self.options.at, ema=self.options.ema)
        network: LatentNetwork = module.to(device).eval()
        return network

    def identity(self) -> str:
        return functions.identity(self.options.factory)
