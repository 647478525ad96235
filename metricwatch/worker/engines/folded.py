"""A network whose batch norms are part of the convolutions before them: fewer passes over memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from metricwatch.worker.engines.forward import Forward, ImpossibleError
from metricwatch.worker.engines.halved import dtype_of, reduced


def prepare(pooled: nn.Module, example: Tensor, precision: str) -> Forward:
    """The network with folded weights, channels last; with `fast` on a GPU in float16, folded or not.

    Raises ImpossibleError where that changes nothing.
    """
    if any(isinstance(module, nn.BatchNorm2d) for module in pooled.modules()):
        folded = reduced(fuse(pooled).eval().requires_grad_(requires_grad=False), example, precision)
    else:
        folded = reduced(pooled, example, precision)
        if folded is pooled:
            raise ImpossibleError("it has no batch norms to fold")
    folded = folded.to(example.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    dtype = dtype_of(folded)

    def forward(pixels: Tensor) -> Tensor:
        features: Tensor = folded(pixels.to(dtype, memory_format=torch.channels_last))
        return features

    return forward
