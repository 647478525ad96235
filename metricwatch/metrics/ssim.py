"""Structural similarity between each image and its content partner (Wang et al. 2004, IEEE TIP 13)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from metricwatch.api import Batch, MetricSpec, PerImageMetric

if TYPE_CHECKING:
    from torch import Tensor

_WINDOW = 11
_SIGMA = 1.5
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
# Windows along a tile's side: five float64 maps of 3 x 522 x 522 take 33 MB, and stay near the processor.
_TILE = 512


class Ssim(PerImageMetric):
    """Mean SSIM over images: 11 x 11 Gaussian window, σ 1.5, K (0.01, 0.03), data range 255.

    Equals skimage's structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=255) within 1e-5. An image with a side under 11 pixels has no full window and is left out.
    """

    spec = MetricSpec(keys=("ssim",), higher_is_better=True, needs=frozenset({"content"}), protocol="gaussian-11")

    # Where nothing of the content's structure is left. Structure turned into its opposite goes on to 2.
    hottest: ClassVar[float | None] = 1.0

    def obstacle(self, height: int, width: int) -> str:
        return f"a side under {_WINDOW} pixels" if min(height, width) < _WINDOW else ""

    def measure(self, batch: Batch) -> Sequence[Sequence[float]]:
        return [(_similarity(image, partner),) for image, partner in zip(batch.images, batch.content, strict=True)]

    def maps(self, batch: Batch) -> Sequence[Tensor]:
        """1 - SSIM at the middle of each full window, the mean over channels, in 0..2.

        The five rows and columns at each border, which are no window's middle, repeat the nearest that is one: the
        mean of a map is a little off from 1 - SSIM. 4 bytes a pixel beside what measure() takes.
        """
        return [_departure(image, partner) for image, partner in zip(batch.images, batch.content, strict=True)]


def _similarity(image: Tensor, partner: Tensor) -> float:
    """SSIM of two uint8 tensors (3, H, W), H and W at least 11.

    Takes about 100 MB beside the pictures, whatever their size.
    """
    sums = [float(index.sum()) for _, _, index in _tiles(image, partner)]
    return math.fsum(sums) / (int(image.shape[0]) * math.prod(_windows(image)))


def _departure(image: Tensor, partner: Tensor) -> Tensor:
    """1 - SSIM, the mean over channels, float32 (H, W), of two uint8 tensors (3, H, W)."""
    import torch
    from torch.nn import functional

    departure = torch.empty((1, 1, *_windows(image)), dtype=torch.float32, device=image.device)
    for top, left, index in _tiles(image, partner):
        height, width = index.shape[-2:]
        # Rounding makes two equal pictures alike by more than 1.
        departure[0, 0, top : top + height, left : left + width] = (1.0 - index.mean(dim=0)).clamp_(min=0.0)
    border = _WINDOW // 2
    return functional.pad(departure, (border, border, border, border), mode="replicate")[0, 0]


def _windows(image: Tensor) -> tuple[int, int]:
    """How many full windows there are in a column and in a row of a picture (..., H, W)."""
    return int(image.shape[-2]) - _WINDOW + 1, int(image.shape[-1]) - _WINDOW + 1


def _tiles(image: Tensor, partner: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """The SSIM index (3, h, w) of a tile at a time, and the row and column of its first window."""
    rows, columns = _windows(image)
    # Tiles, not bands of rows: a picture within the limit may be nine million pixels wide.
    for top in range(0, rows, _TILE):
        for left in range(0, columns, _TILE):
            # Neighbours share ten rows and columns, so each full window falls into one tile, and into one only.
            tile = (..., slice(top, top + _TILE + _WINDOW - 1), slice(left, left + _TILE + _WINDOW - 1))
            yield top, left, _index(image[tile], partner[tile])


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
