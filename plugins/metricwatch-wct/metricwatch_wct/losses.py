"""What style transfer is trained with. Nothing here knows metricwatch: it belongs into a training job.

All take float pictures (N, 3, H, W) in 0..1 and give scalars, means over the N, with gradients to what is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from metricwatch_wct.encoder import LEVELS, Encoder

_DEEPEST = LEVELS[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class StyleTransferParts:
    """The losses before their weights, and their weighted sum."""

    content: Tensor
    style: Tensor
    total_variation: Tensor
    total: Tensor


class StyleTransferLoss(nn.Module):
    """content_weight · content + style_weight · style + tv_weight · total variation (Gatys et al. 2016).

    content: the mean squared difference of the maps of relu4_1, the encoder's deepest. style: the mean squared
    difference of the Gram matrices F Fᵀ / (C·H·W), F being a map as C x (H·W), summed over relu1_1 to relu4_1. Total
    variation: the sum of the absolute differences of neighbours in a picture, both ways and over its channels. It is a
    sum and grows with the picture's area, the others do not; the weights' defaults are made for that.
    """

    def __init__(
        self, encoder: Encoder, *, content_weight: float = 1.0, style_weight: float = 1e6, tv_weight: float = 1e-6
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.content_weight = content_weight
        self.style_weight = style_weight
        self.tv_weight = tv_weight

    def forward(self, output: Tensor, content: Tensor, style: Tensor) -> StyleTransferParts:
        """Content has the output's shape; style may have another size, and N or 1 pictures."""
        with torch.no_grad():
            wanted_content = self.encoder(content)[_DEEPEST]
            wanted_style = {level: gram(maps) for level, maps in self.encoder(style).items()}
        made = self.encoder(output)
        content_loss = functional.mse_loss(made[_DEEPEST], wanted_content)
        style_loss = torch.stack([(gram(made[level]) - wanted_style[level]).square().mean() for level in LEVELS]).sum()
        variation = total_variation(output)
        total = self.content_weight * content_loss + self.style_weight * style_loss + self.tv_weight * variation
        return StyleTransferParts(content=content_loss, style=style_loss, total_variation=variation, total=total)


class Shares(NamedTuple):
    """What the content's and the style's own weights are multiplied by."""

    content: float
    style: float


def balance(progress: float) -> Shares:
    """From content to style as training goes on: 0.8 (1 - p) and 0.6 p + 0.2."""
    return Shares(content=0.8 * (1.0 - progress), style=0.6 * progress + 0.2)


class DynamicLoss(nn.Module):
    """A StyleTransferLoss whose weights follow the training's progress p = step / total_steps, at most 1.

    total = schedule(p).content · content_weight · content + schedule(p).style · style_weight · style + tv_weight · tv.
    It holds no count of its own: the step is given with each call, so that a job that goes on from a checkpoint's step
    goes on with that step's weights. A schedule is any function of p in 0..1 that gives Shares.
    """

    def __init__(
        self, loss: StyleTransferLoss, *, total_steps: int, schedule: Callable[[float], Shares] = balance
    ) -> None:
        super().__init__()
        if total_steps < 1:
            raise ValueError(f"total_steps is {total_steps}; a training has at least one step")
        self.loss = loss
        self.total_steps = total_steps
        self.schedule = schedule

    def forward(self, output: Tensor, content: Tensor, style: Tensor, *, step: int) -> StyleTransferParts:
        """As StyleTransferLoss, at a step from 0 on."""
        parts: StyleTransferParts = self.loss(output, content, style)
        shares = self.shares(step)
        total = (
            shares.content * self.loss.content_weight * parts.content
            + shares.style * self.loss.style_weight * parts.style
            + self.loss.tv_weight * parts.total_variation
        )
        return StyleTransferParts(
            content=parts.content, style=parts.style, total_variation=parts.total_variation, total=total
        )

    def shares(self, step: int) -> Shares:
        """What the schedule says at a step; beyond the last one it says what it said there."""
        return self.schedule(min(max(step, 0) / self.total_steps, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructionParts:
    """A decoder's losses, and pixels + feature_weight · features."""

    pixels: Tensor
    features: Tensor
    total: Tensor


class ReconstructionLoss(nn.Module):
    """What a decoder of WCT is trained with, on ordinary pictures (Li et al. 2017, equation 1).

    pixels: the mean squared difference of picture and reconstruction. features: that of their maps at the decoder's
    level. The paper sums where we take means, and has a feature_weight of 1.
    """

    def __init__(self, encoder: Encoder, level: str, *, feature_weight: float = 1.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.level = level
        self.feature_weight = feature_weight

    def forward(self, output: Tensor, picture: Tensor, maps: Tensor | None = None) -> ReconstructionParts:
        """maps: the picture's own at the level, where they are known already."""
        if maps is None:
            with torch.no_grad():
                maps = self.encoder(picture, self.level)[self.level]
        pixels = functional.mse_loss(output, picture)
        features = functional.mse_loss(self.encoder(output, self.level)[self.level], maps)
        return ReconstructionParts(pixels=pixels, features=features, total=pixels + self.feature_weight * features)


def gram(maps: Tensor) -> Tensor:
    """(N, C, H, W) to the Gram matrices (N, C, C), F Fᵀ / (C·H·W)."""
    flat = maps.flatten(2)
    return flat @ flat.mT / (flat.shape[1] * flat.shape[2])


def total_variation(pictures: Tensor) -> Tensor:
    """The sum of absolute differences of neighbours, both ways, of each picture (N, 3, H, W); the mean over the N."""
    down = (pictures[..., 1:, :] - pictures[..., :-1, :]).abs().sum()
    across = (pictures[..., 1:] - pictures[..., :-1]).abs().sum()
    return (down + across) / len(pictures)
