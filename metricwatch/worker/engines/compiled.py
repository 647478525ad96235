"""torch.compile: on a GPU with CUDA graphs, on a CPU with the weights frozen into the code."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metricwatch.worker.engines.forward import Forward
from metricwatch.worker.engines.halved import dtype_of, reduced


def prepare(pooled: nn.Module, example: Tensor, precision: str) -> Forward:
    """The compiled network, with `fast` on a GPU in float16.

    The first batch of each size up to a power of two takes a minute on a CPU.

    Raises whatever the compiler does; on a CPU it needs a C++ compiler on the path.
    """
    if example.device.type == "cuda":
        pooled = reduced(pooled, example, precision)
        compiled = torch.compile(pooled, mode="reduce-overhead", dynamic=False)
    else:
        compiled = torch.compile(pooled, dynamic=False, options={"freezing": True})

    dtype = dtype_of(pooled)

    def forward(pixels: Tensor) -> Tensor:
        count = len(pixels)
        # Code is made for one batch size: a few sizes serve all batches.
        size = 1 << (count - 1).bit_length()
        if size > count:
            pixels = torch.cat([pixels, pixels[-1:].expand(size - count, -1, -1, -1)])
        with torch.no_grad():
            features: Tensor = compiled(pixels.to(dtype, memory_format=torch.channels_last))
        # CUDA graphs write the next result into the same memory.
        return features[:count].clone()

    return forward
