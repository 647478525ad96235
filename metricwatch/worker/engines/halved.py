"""float16 copies of networks, for GPUs."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def reduced(network: nn.Module, example: Tensor, precision: str) -> nn.Module:
    """A float16 copy of the network when the precision is `fast` and the example on a GPU, else the network."""
    if precision != "fast" or example.device.type != "cuda":
        return network
    return copy.deepcopy(network).half()


def dtype_of(network: nn.Module) -> torch.dtype:
    """The type of its parameters, which its input must have."""
    return next((each.dtype for each in network.parameters() if each.is_floating_point()), torch.float32)
