"""Decoders: from a map of the encoder back to a picture."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from metricwatch_wct.encoder import CHANNELS, LEVELS, Encoder, poolings

# What the encoder does between two levels, backwards: the channels after each convolution of a level's own part.
_MIRRORED = {"relu4_1": (256, 256, 256), "relu3_1": (128, 128), "relu2_1": (64, 64), "relu1_1": (3,)}


class Decoder(nn.Sequential):
    """The encoder mirrored: (N, C, h, w) of a level to (N, 3, h·2ⁿ, w·2ⁿ) with n poolings before that level.

    Each convolution of the encoder has its counterpart, each pooling a nearest enlargement by 2. Borders are reflected.
    The last convolution is linear: pictures are 0..1 up to what the decoder gets wrong. Maps need sides of at least 2.
    """

    def __init__(self, level: str) -> None:
        modules: list[nn.Module] = []
        before = CHANNELS[level]
        for part in reversed(LEVELS[: poolings(level) + 1]):
            for number, channels in enumerate(_MIRRORED[part]):
                modules += [_convolution(before, channels), nn.ReLU()]
                if number == 0 and part != "relu1_1":
                    modules.append(nn.Upsample(scale_factor=2, mode="nearest"))
                before = channels
        super().__init__(*modules[:-1])
        self.level = level


def decoders_of(levels: Iterable[str]) -> nn.ModuleDict:
    """A decoder for each level, with random weights. Its state's names are "relu2_1.0.weight" and so on."""
    return nn.ModuleDict({level: Decoder(level) for level in sorted(levels)})


def decode(encoder: Encoder, decoder: Decoder, maps: Tensor, height: int, width: int) -> Tensor:
    """The picture (N, 3, height, width) of maps that the encoder made of one whose sides 2ⁿ divides."""
    start = encoder.offset(decoder.level)
    picture: Tensor = decoder(maps)
    return picture[..., start : start + height, start : start + width]


def _convolution(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=3, padding=1, padding_mode="reflect")
