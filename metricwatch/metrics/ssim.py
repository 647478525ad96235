"""Structural similarity between each image and its content partner (Wang et al. 2004, IEEE TIP 13)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from metricwatch.api import Arrays, Batch, Metric, MetricSpec, ScoreState, Value

if TYPE_CHECKING:
    from torch import Tensor

_WINDOW = 11
_SIGMA = 1.5
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
_NAMED = 5
# Windows along a tile's side: five float64 maps of 3 x 522 x 522 take 33 MB, and stay near the processor.
_TILE = 512


class Ssim(Metric):
    """Mean SSIM over images: 11 x 11 Gaussian window, σ 1.5, K (0.01, 0.03), data range 255.

    Equals skimage's structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=255) within 1e-5. A partner of another size is resized to the image's size (bicubic, antialiased,
    rounded to 0..255). An image with a side under 11 pixels has no full window: it is left out and named in the
    detail. The standard error is that of the mean over images, None for fewer than two.
    """

    spec = MetricSpec(
        keys=("ssim",), higher_is_better=True, needs=frozenset({"content"}), protocol="gaussian-11-bicubic-partner"
    )

    def __init__(self, reference: Arrays | None = None) -> None:
        super().__init__(reference)
        self._scores: list[tuple[str, float]] = []
        self._small: list[str] = []

    def update(self, batch: Batch) -> None:
        for name, image, partner in zip(batch.names, batch.images, batch.content, strict=True):
            if min(image.shape[-2:]) < _WINDOW:
                self._small.append(name)
            else:
                self._scores.append((name, _similarity(image, partner)))

    def merge(self, other: Self) -> None:
        self._scores.extend(other._scores)
        self._small.extend(other._small)

    def compute(self) -> Sequence[Value]:
        n = len(self._scores)
        detail = self._left_out()
        if not n:
            state = ScoreState.TOO_FEW_IMAGES if self._small else ScoreState.NO_PAIRS
            detail = detail or "no image came with a content partner"
            return [Value(key="ssim", value=None, images=0, state=state, detail=detail)]
        # fsum is exact, so the order of arrival changes nothing.
        mean = math.fsum(score for _, score in self._scores) / n
        if not math.isfinite(mean):
            bad = sorted(name for name, score in self._scores if not math.isfinite(score))
            detail = f"SSIM is not finite for {_listed(bad)}"
            return [Value(key="ssim", value=None, images=n, state=ScoreState.NON_FINITE, detail=detail)]
        stderr = None
        if n > 1:
            stderr = math.sqrt(math.fsum((score - mean) ** 2 for _, score in self._scores) / (n - 1) / n)
        return [Value(key="ssim", value=mean, images=n, stderr=stderr, detail=detail)]

    def _left_out(self) -> str:
        if not self._small:
            return ""
        return f"left out for a side under {_WINDOW} pixels: {_listed(sorted(self._small))}"


def _similarity(image: Tensor, partner: Tensor) -> float:
    """SSIM of two uint8 tensors (3, H, W) and (3, H', W'), H and W at least 11.

    Takes about 100 MB beside the pictures, whatever their size; resizing a partner takes 3 bytes a pixel to hold
    it and up to 8 to make it.
    """
    if partner.shape != image.shape:
        partner = _resized(partner, int(image.shape[-2]), int(image.shape[-1]))
    windows = [int(length) - _WINDOW + 1 for length in image.shape[-2:]]
    sums = []
    # Tiles, not bands of rows: a picture within the limit may be nine million pixels wide.
    for top in range(0, windows[0], _TILE):
        for left in range(0, windows[1], _TILE):
            # Neighbours share ten rows and columns, so each full window falls into one tile, and into one only.
            tile = (..., slice(top, top + _TILE + _WINDOW - 1), slice(left, left + _TILE + _WINDOW - 1))
            sums.append(float(_index(image[tile], partner[tile]).sum()))
    return math.fsum(sums) / (int(image.shape[0]) * windows[0] * windows[1])


def _index(image: Tensor, partner: Tensor) -> Tensor:
    """The SSIM index (3, H - 10, W - 10) at each full window of two uint8 tensors (3, H, W)."""
    import torch

    # float32 loses E[x²] - E[x]² in bright flat regions, where SSIM is then off by 1e-4.
    one = image.to(torch.float64)
    other = partner.to(torch.float64)
    maps = torch.stack((one, other, one * one, other * other, one * other))
    mean_one, mean_other, square_one, square_other, product = _windowed(maps)
    luminance = mean_one * mean_other
    energy = mean_one.square() + mean_other.square()
    covariance = product - luminance
    variance = square_one + square_other - energy
    index: Tensor = (2 * luminance + _C1) * (2 * covariance + _C2) / ((energy + _C1) * (variance + _C2))
    return index


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    """A uint8 tensor (C, H, W) in another size, bicubic and antialiased, computed in float64 and rounded.

    One channel and one axis at a time, in strips: only one channel, stretched along one axis, is ever held in full
    as float64. The axis that keeps it smaller goes first, so it has no more pixels than the larger of the two.
    """
    import torch

    old_height, old_width = (int(length) for length in picture.shape[-2:])
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
    import torch
    from torch.nn import functional

    length, new_length = int(source.shape[1]), int(target.shape[1])
    rows = max(1, _TILE * _TILE // max(length, new_length))
    for top in range(0, int(source.shape[0]), rows):
        strip = source[top : top + rows].to(torch.float64)
        # To the height that it has: along that axis nothing is mixed.
        size = (int(strip.shape[0]), new_length)
        stretched = functional.interpolate(strip[None, None], size=size, mode="bicubic", antialias=True)[0, 0]
        if target.dtype == torch.uint8:
            stretched = stretched.clamp(0, 255).round()
        target[top : top + rows] = stretched


def _windowed(maps: Tensor) -> Tensor:
    """Gaussian means (..., H - 10, W - 10) of (..., H, W): full windows only, so no border is made up.

    torchmetrics (1.9) averages over a mirrored border as well and so is off from skimage in the third digit.
    """
    weights = [math.exp(-0.5 * ((offset - _WINDOW // 2) / _SIGMA) ** 2) for offset in range(_WINDOW)]
    weights = [weight / math.fsum(weights) for weight in weights]
    for axis in (-1, -2):
        # A sum of shifted views takes a tenth of the time of a double-precision convolution on a CPU.
        length = maps.shape[axis] - _WINDOW + 1
        total = maps.narrow(axis, 0, length) * weights[0]
        for shift in range(1, _WINDOW):
            total.add_(maps.narrow(axis, shift, length), alpha=weights[shift])
        maps = total
    return maps


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
