"""Sharpness: the variance of each image's Laplacian (Pech-Pacheco et al. 2000, ICPR, doi 10.1109/ICPR.2000.903548)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from metricwatch.api import Batch, MetricSpec, PerImageMetric

if TYPE_CHECKING:
    from torch import Tensor


class TemplateMetric(PerImageMetric):
    """Mean over images of the variance of the Laplacian of the luma, in grey levels squared. Higher is sharper.

    The Laplacian is that of the four neighbours, at pixels that have all four; luma is that of ITU-R BT.601.
    """

    spec = MetricSpec(keys=("template_metric",), higher_is_better=True, protocol="laplacian-4")

    def obstacle(self, height: int, width: int) -> str:
        return "a side under 3 pixels" if min(height, width) < 3 else ""  # noqa: PLR2004 - a pixel and two neighbours

    def measure(self, batch: Batch) -> Sequence[Sequence[float]]:
        return [(_sharpness(image),) for image in batch.images]


def _sharpness(image: Tensor) -> float:
    """Of a uint8 tensor (3, H, W), H and W at least 3."""
    # Imported by then, as image is a tensor; at the top it would make the daemon load torch.
    import torch

    # float32 would lose digits of a variance that is small beside its mean.
    red, green, blue = image.to(torch.float64)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    neighbours = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float((neighbours - 4 * luma[1:-1, 1:-1]).var(correction=0))


__all__ = ["TemplateMetric"]
