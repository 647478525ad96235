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
    """SSIM of two uint8 tensors (3, H, W) and (3, H', W'), H and W at least 11."""
    import torch
    from torch.nn import functional

    # float32 loses E[x²] - E[x]² in bright flat regions, where SSIM is then off by 1e-4.
    one = image.to(torch.float64)
    other = partner.to(torch.float64)
    if other.shape != one.shape:
        size = (int(image.shape[-2]), int(image.shape[-1]))
        resized = functional.interpolate(other[None], size=size, mode="bicubic", antialias=True)
        other = resized[0].clamp(0, 255).round()
    maps = torch.stack((one, other, one * one, other * other, one * other))
    mean_one, mean_other, square_one, square_other, product = _windowed(maps)
    luminance = mean_one * mean_other
    energy = mean_one.square() + mean_other.square()
    covariance = product - luminance
    variance = square_one + square_other - energy
    index = (2 * luminance + _C1) * (2 * covariance + _C2) / ((energy + _C1) * (variance + _C2))
    return float(index.mean())


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
