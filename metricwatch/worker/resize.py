"""Bringing a partner to its image's size, in little memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Pixels that are float64 at a time beside the one channel held in full.
_STRIP = 512 * 512
# Shrinking by more takes more shared memory than CUDA's kernel has for float64.
_MOST_ON_CUDA = 16


def resized(picture: Tensor, height: int, width: int) -> Tensor:
    """A uint8 tensor (C, H, W) in another size, bicubic and antialiased, computed in float64 and rounded to 0..255.

    One channel and one axis at a time, in strips: only one channel, stretched along one axis, is ever held in full
    as float64. The axis that keeps it smaller goes first, so it has no more pixels than the larger of the two.
    Takes 3 bytes a pixel to hold the result and up to 8 to make it.
    """
    old_height, old_width = (int(length) for length in picture.shape[-2:])
    if picture.is_cuda and max(old_height / height, old_width / width) > _MOST_ON_CUDA:
        return resized(picture.cpu(), height, width).to(picture.device)
    across_first = old_height * width <= height * old_width
    result = torch.empty((picture.shape[0], height, width), dtype=torch.uint8, device=picture.device)
    for channel, target in zip(picture, result, strict=True):
        # Transposed, the rows are the columns: what follows stretches rows, then columns, of either.
        source, goal = (channel, target) if across_first else (channel.T, target.T)
        half = torch.empty((source.shape[0], goal.shape[1]), dtype=torch.float64, device=picture.device)
        _stretch_rows(source, half)
        _stretch_rows(half.T, goal.T)
    return result


def _stretch_rows(source: Tensor, target: Tensor) -> None:
    """Fill target (N, new length) with the rows of source (N, length), resized; a uint8 target is rounded to."""
    length, new_length = int(source.shape[1]), int(target.shape[1])
    rows = max(1, _STRIP // max(length, new_length))
    for top in range(0, int(source.shape[0]), rows):
        strip = source[top : top + rows].to(torch.float64)
        # To the height that it has: along that axis nothing is mixed.
        size = (int(strip.shape[0]), new_length)
        stretched = functional.interpolate(strip[None, None], size=size, mode="bicubic", antialias=True)[0, 0]
        if target.dtype == torch.uint8:
            stretched = stretched.clamp(0, 255).round()
        target[top : top + rows] = stretched
