"""VGG16 up to relu4_1, with the four maps that whitening and colouring work on."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Architecture = Literal["vgg16", "st-vgg16"]

# From fine to coarse. A map of the n-th has been pooled n - 1 times.
LEVELS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
CHANNELS = {"relu1_1": 64, "relu2_1": 128, "relu3_1": 256, "relu4_1": 512}
# Below it, reflecting the borders of relu4_1 is impossible.
SMALLEST_SIDE = 16
# Channels and convolutions of each block; of the fourth there is only its first convolution.
_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 1))


def poolings(level: str) -> int:
    """How often a level's map has been halved: 0 to 3."""
    return LEVELS.index(level)


class Encoder(nn.Module):
    """Pictures to maps. Frozen: no gradients to its own weights, but through it to the pictures.

    architecture "vgg16" is torchvision's; "st-vgg16" is the shift-tolerant one of ST-LPIPS (Ghildyal and Liu, ECCV
    2022), where a max pooling of stride 1 and a blur of stride 2, reflected by 2 pixels on each side, stand in place of
    each max pooling of stride 2. Both pad their convolutions with zeros, as they were trained. Weights are random until
    they are loaded; digest then says which they are.

    Both networks scale the pictures themselves, channel by channel: (x - mean) / deviation, ImageNet's for "vgg16", the
    weights file's own for "st-vgg16" (written there for the range [-1, 1], and the same up to rounding).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.digest = ""
        modules: list[nn.Module] = []
        self._taps: dict[int, str] = {}
        before = 3
        for (channels, convolutions), level in zip(_BLOCKS, LEVELS, strict=True):
            if modules:
                modules += _pooling(architecture, before)
            for number in range(convolutions):
                modules += [nn.Conv2d(before, channels, kernel_size=3, padding=1), nn.ReLU()]
                if number == 0:
                    self._taps[len(modules) - 1] = level
                before = channels
        self.stack = nn.Sequential(*modules)
        self.register_buffer("mean", torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1))
        self.requires_grad_(requires_grad=False)

    def forward(self, pictures: Tensor, upto: str = LEVELS[-1]) -> dict[str, Tensor]:
        """Float (N, 3, H, W) in 0..1, sides of at least 16, to the maps (N, C, h, w) of all levels up to one.

        h is H halved at each pooling: rounded down by "vgg16", down and then one more by "st-vgg16". W is alike.
        """
        maps = (pictures - self.mean) / self.deviation
        found = {}
        for index, module in enumerate(self.stack):
            maps = module(maps)
            if level := self._taps.get(index):
                found[level] = maps
                if level == upto:
                    break
        return found

    def offset(self, level: str) -> int:
        """Where the picture's first pixel is in a map of that level after it was enlarged to the picture's scale.

        The borders that "st-vgg16" reflects make each of its maps begin one place before the picture.
        """
        return 2 ** poolings(level) - 1 if self.architecture == "st-vgg16" else 0


class Blur(nn.Module):
    """(N, C, H, W) with H, W > 2 to about half the size: reflected by 2 pixels, each channel filtered, stride 2."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # [1 2 1] in both directions: the binomial filter that the weights file holds as well.
        row = torch.tensor((0.25, 0.5, 0.25))
        self.register_buffer("filt", torch.outer(row, row).expand(channels, 1, 3, 3).contiguous())

    def forward(self, maps: Tensor) -> Tensor:
        padded = functional.pad(maps, (2, 2, 2, 2), mode="reflect")
        return functional.conv2d(padded, self.filt, stride=2, groups=len(self.filt))


def _pooling(architecture: Architecture, channels: int) -> list[nn.Module]:
    if architecture == "vgg16":
        return [nn.MaxPool2d(kernel_size=2)]
    return [nn.MaxPool2d(kernel_size=2, stride=1), Blur(channels)]
