"""The losses of neural style transfer (Gatys, Ecker & Bethge 2016, CVPR): content by maps, style by Gram matrices.

Both on VGG16 with ImageNet weights and on the shift-tolerant VGG16 that needs no download (keys with st_). Losses on
different networks have different sizes and are never comparable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from metricwatch.api import Batch, MetricSpec, PerImageMetric

if TYPE_CHECKING:
    from torch import Tensor

_CONTENT_LAYER = "relu4_2"
_STYLE_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
# Numbers that are float64 at a time: 32 MB, however large the picture.
_BLOCK = 1 << 22


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
    and differences are float64.
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
        by_image = torch.stack(
            [
                torch.stack(
                    [
                        (self._gram(ours[layer][row]) - self._gram(theirs[layer][row])).square().mean()
                        for layer in _STYLE_LAYERS
                    ]
                )
                for row in range(len(batch))
            ]
        )
        return [(math.fsum(losses), *losses) for losses in by_image.tolist()]

    def _gram(self, maps: Tensor) -> Tensor:
        """Float64 (C, C) from (C, H, W)."""
        import torch

        channels, places = int(maps.shape[0]), int(maps.shape[1] * maps.shape[2])
        gram = torch.zeros((channels, channels), dtype=torch.float64, device=maps.device)
        for block in torch.split(maps.flatten(1), max(1, _BLOCK // channels), dim=1):
            exact = block.to(torch.float64)
            gram.addmm_(exact, exact.T)
        return gram / (channels * places if self.options.normalise == "chw" else places)


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
