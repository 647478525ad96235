"""Pictures in the style of others: whitening and colouring at one level after the other, from coarse to fine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional

from metricwatch_wct.decoder import Decoder, decode
from metricwatch_wct.encoder import LEVELS, SMALLEST_SIDE, Encoder, poolings
from metricwatch_wct.wct import wct


def stylise(
    encoder: Encoder,
    decoders: Mapping[str, Decoder],
    content: Sequence[Tensor],
    style: Sequence[Tensor],
    *,
    alpha: float = 1.0,
) -> list[Tensor]:
    """Each content in its style: float (3, H, W) and (3, h, w) in 0..1, each of any size, to (3, H, W) each.

    At each level that has a decoder, relu4_1 first, the picture so far is encoded, its map gets the style's mean and
    covariance (alpha as in wct()) and is decoded; the next level starts from that, clamped to 0..1 (Li et al. 2017,
    section 3.3). What the last decoder gives is not clamped. One picture is worked on at a time, so that results do not
    hang on what else is asked for, and memory is that of the largest. All is on the device of the encoder.
    """
    levels = [level for level in reversed(LEVELS) if level in decoders]
    return [
        _stylised(encoder, decoders, levels, picture, partner, alpha)
        for picture, partner in zip(content, style, strict=True)
    ]


def _stylised(
    encoder: Encoder,
    decoders: Mapping[str, Decoder],
    levels: Sequence[str],
    content: Tensor,
    style: Tensor,
    alpha: float,
) -> Tensor:
    height, width = content.shape[-2:]
    # Sides that all poolings halve without a rest: the decoder then gives back the very size.
    current = _widened(content[None], 2 ** poolings(levels[0]))
    targets = encoder(_widened(style[None], 1), levels[0])
    for level in levels:
        maps = encoder(current.clamp(0.0, 1.0), level)[level]
        coloured = wct(maps[0], targets[level][0], alpha=alpha)
        current = decode(encoder, decoders[level], coloured[None], *current.shape[-2:])
    return current[0, :, :height, :width]


def _widened(picture: Tensor, multiple: int) -> Tensor:
    """(1, 3, H, W) with its last row and column repeated up to multiples of a number and the encoder's least size."""
    height, width = (max(SMALLEST_SIDE, -(-side // multiple) * multiple) for side in picture.shape[-2:])
    missing = (0, width - picture.shape[-1], 0, height - picture.shape[-2])
    return functional.pad(picture, missing, mode="replicate") if any(missing) else picture
