"""TensorRT on an NVIDIA GPU, by way of torch-tensorrt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metricwatch.worker.engines.forward import Forward, ImpossibleError

_MOST_AT_ONCE = 512


def prepare(pooled: nn.Module, example: Tensor, precision: str) -> Forward:
    """The network built for batches of 1 to 512. Raises ImpossibleError without an NVIDIA GPU or the package."""
    if example.device.type != "cuda":
        raise ImpossibleError("it runs on NVIDIA GPUs only")
    try:
        import torch_tensorrt
    except ImportError as error:
        raise ImpossibleError("it is not installed: pip install 'metricwatch[tensorrt]'") from error
    rest = tuple(example.shape[1:])
    sizes = torch_tensorrt.Input(min_shape=(1, *rest), opt_shape=(32, *rest), max_shape=(_MOST_AT_ONCE, *rest))
    # Without TF32, float32 means float32 here, too.
    types: dict[str, Any] = (
        {"enabled_precisions": {torch.float32, torch.float16}} if precision == "fast" else {"disable_tf32": True}
    )
    built = torch_tensorrt.compile(pooled, ir="dynamo", inputs=[sizes], **types)

    def forward(pixels: Tensor) -> Tensor:
        features: Tensor = torch.cat([built(part.contiguous()) for part in torch.split(pixels, _MOST_AT_ONCE)])
        return features

    return forward
