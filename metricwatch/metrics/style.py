"""The losses of neural style transfer (Gatys, Ecker & Bethge 2016, CVPR): content by maps, style by Gram matrices.

Both on VGG16 with ImageNet weights and on the shift-tolerant VGG16 that needs no download (keys with st_). Losses on
different networks have different sizes and are never comparable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from metricwatch.api import Batch, MetricSpec, PerImageMetric

if TYPE_CHECKING:
    from torch import Tensor

_CONTENT_LAYER = "relu4_2"
_STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
Float64 = npt.NDArray[np.float64]

# Numbers that are float64 at a time: 32 MB, however large the picture.
_BLOCK = 1 << 22
# Places whose products are summed in float32: so few that each entry of a Gram matrix is right to 1e-7 of its norm.
_PLACES = 4096
# Gram matrices that are nearer, in terms of their norm, than this are multiplied in float64: what is left of rounding
# in the squared difference of others is below 1e-4 of it at the worst, and was 1e-6 for noise of one grey level.
_NEAR = 1e-2


class LayerLoss(PerImageMetric):
    """A loss on the layers of one VGG, which needs pictures of at least smallest_side."""

    extractor: ClassVar[str]
    smallest_side: ClassVar[int]

    def obstacle(self, height: int, width: int) -> str:
        return f"a side under {self.smallest_side} pixels" if min(height, width) < self.smallest_side else ""


class ContentLoss(LayerLoss):
    """mean (F - P)² over the C x H x W numbers of relu4_2, F of the image and P of its content partner.

    Gatys's own loss is ½ sum (F - P)². Differences and sums are float64.
    """

    extractor = "vgg16"
    smallest_side = 16
    spec = MetricSpec(
        keys=("content_loss",),
        higher_is_better=False,
        layers=("vgg16",),
        needs=frozenset({"content"}),
        protocol="relu4_2-mse",
    )

    def measure(self, batch: Batch) -> Sequence[Sequence[float]]:
        import torch

        ours = batch.layers[self.extractor][_CONTENT_LAYER]
        theirs = batch.content_layers[self.extractor][_CONTENT_LAYER]
        losses = [(one.to(torch.float64) - other).square().mean() for one, other in zip(ours, theirs, strict=True)]
        # One wait for the device, not one an image.
        return [(loss,) for loss in torch.stack(losses).tolist()]


@dataclass(frozen=True, slots=True, kw_only=True)
class GramOptions:
    """What a Gram matrix is divided by: C·H·W, or H·W as Gatys does."""

    normalise: Literal["chw", "hw"] = "chw"


class GramStyleLoss(LayerLoss):
    """Mean squared difference of the Gram matrices of the image and its style partner, by layer and summed.

    F being a layer's map as a C x (H·W) matrix, and the means going over the C x C entries, a layer's loss is

        chw (default):  mean (F Fᵀ / (C·H·W) - S Sᵀ / (C·H·W))²
        hw:             mean (F Fᵀ / (H·W) - S Sᵀ / (H·W))², C² times as much, and 4 times Gatys's E of the layer

    The sum is over relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1, unweighted. Maps are float32; their products, sums
    and differences are float64. On a CPU products are summed in float32 over 4096 places at a time first, in a fifth
    of the time, and that stands where the matrices differ by more than a hundredth of their norm: the loss is within
    1e-6 of the same.
    """

    Options = GramOptions
    extractor = "vgg16"
    smallest_side = 16
    spec = MetricSpec(
        keys=("gram_style_loss", *(f"gram_style_loss_{layer}" for layer in _STYLE_LAYERS)),
        higher_is_better=False,
        layers=("vgg16",),
        needs=frozenset({"style"}),
        protocol="gram-mse",
    )

    def measure(self, batch: Batch) -> Sequence[Sequence[float]]:
        import torch

        ours, theirs = batch.layers[self.extractor], batch.style_layers[self.extractor]
        pairs = [(ours[layer][row], theirs[layer][row]) for row in range(len(batch)) for layer in _STYLE_LAYERS]
        if pairs[0][0].device.type == "cpu":
            # numpy multiplies without Python's lock, in the worker on one thread.
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                losses = list(pool.map(self._loss_on_cpu, *zip(*pairs, strict=True)))
        else:
            # One wait for the device, not one an image.
            losses = torch.stack([self._loss(one, other) for one, other in pairs]).tolist()
        count = len(_STYLE_LAYERS)
        by_image = [losses[start : start + count] for start in range(0, len(losses), count)]
        return [(math.fsum(each), *each) for each in by_image]

    def _loss(self, one: Tensor, other: Tensor) -> Tensor:
        """The loss of one layer, float64 without dimensions, from maps (C, H, W)."""
        divisors = [self._divisor(maps) for maps in (one, other)]
        return (_gram(one) / divisors[0] - _gram(other) / divisors[1]).square().mean()

    def _loss_on_cpu(self, one: Tensor, other: Tensor) -> float:
        grams = [_quick_gram(maps) / self._divisor(maps) for maps in (one, other)]
        difference = grams[0] - grams[1]
        if (difference**2).sum() < _NEAR**2 * (grams[0] ** 2).sum():
            return float(self._loss(one, other))
        return float((difference**2).mean())

    def _divisor(self, maps: Tensor) -> int:
        channels, places = int(maps.shape[0]), int(maps.shape[1] * maps.shape[2])
        return channels * places if self.options.normalise == "chw" else places


def _gram(maps: Tensor) -> Tensor:
    """F Fᵀ, float64 (C, C), from (C, H, W)."""
    import torch

    channels = int(maps.shape[0])
    gram = torch.zeros((channels, channels), dtype=torch.float64, device=maps.device)
    for block in torch.split(maps.flatten(1), max(1, _BLOCK // channels), dim=1):
        exact = block.to(torch.float64)
        gram.addmm_(exact, exact.T)
    return gram


def _quick_gram(maps: Tensor) -> Float64:
    """The same on a CPU, with the products of _PLACES places at a time summed in float32."""
    channels = int(maps.shape[0])
    # As it lies in memory, channels last or first: numpy sees that X and its own transpose are multiplied, and does
    # half of the work.
    rows = maps.flatten(1).T if maps.is_contiguous() else maps.permute(1, 2, 0).reshape(-1, channels)
    numbers = rows.numpy()
    gram = np.zeros((channels, channels))
    # Maps that are not finite are told by the loss.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(numbers), _PLACES):
            block = numbers[start : start + _PLACES]
            gram += block.T @ block
    return gram


class StContentLoss(ContentLoss):
    """The content loss on the shift-tolerant VGG16."""

    extractor = "st-vgg16"
    smallest_side = 18
    spec = MetricSpec(
        keys=("st_content_loss",),
        higher_is_better=False,
        layers=("st-vgg16",),
        needs=frozenset({"content"}),
        protocol="relu4_2-mse",
    )


class StGramStyleLoss(GramStyleLoss):
    """The Gram style loss on the shift-tolerant VGG16."""

    extractor = "st-vgg16"
    smallest_side = 18
    spec = MetricSpec(
        keys=("st_gram_style_loss", *(f"st_gram_style_loss_{layer}" for layer in _STYLE_LAYERS)),
        higher_is_better=False,
        layers=("st-vgg16",),
        needs=frozenset({"style"}),
        protocol="gram-mse",
    )
