"""Pillow's bicubic resize of floats, on whichever device the pictures are."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

# Of the cubic convolution kernel (Keys 1981), as Pillow has it (Resample.c, bicubic_filter).
_A = -0.5
_SUPPORT = 2.0


def pillow_bicubic(image: Tensor, side: int) -> Tensor:
    """float32 (N, 3, H, W) in 0..255 to (N, 3, side, side): antialiased, unrounded, clipped to 0..255 at the end.

    Equals Image.resize in mode F, channel by channel, to 1e-4 grey levels: the weights are made in float64. That of
    torch (interpolate with antialias=True) makes them in float32 and is off by up to 5e-3. Needs float32 products
    without TF32.
    """
    height, width = image.shape[2:]
    if width != side:
        image = image @ _weights(width, side).to(image.device).T
    if height != side:
        image = _weights(height, side).to(image.device) @ image
    return image.clamp(0, 255)


@lru_cache(maxsize=64)
def _weights(length: int, side: int) -> Tensor:
    """float32 (side, length): how much each pixel of a line counts for each pixel of the resized line."""
    scale = length / side
    # Reducing, the kernel grows with the step, so that no pixel is passed over.
    stretch = max(scale, 1.0)
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) * scale
    away = ((torch.arange(length, dtype=torch.float64) + 0.5 - centres[:, None]) / stretch).abs()
    inner = ((_A + 2) * away - (_A + 3)) * away * away + 1
    outer = (((away - 5) * away + 8) * away - 4) * _A
    kernel = torch.where(away < 1, inner, torch.where(away < _SUPPORT, outer, 0.0))
    return (kernel / kernel.sum(dim=1, keepdim=True)).float()
