"""Inception-v3 trained on artworks: ArtFID's measure of style (Wright and Ommer, GCPR 2022; the package art-fid)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from metricwatch.worker.networks.network import Network
from metricwatch.worker.networks.pool3 import Pool3
from metricwatch.worker.networks.tensors import fill, read_tensors

_NAME = "art-inception-v3"
# The smallest picture that reaches pool3.
_SMALLEST = 75


def art_fid(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32 (N, 3, H, W) in 0..1, at the picture's own size, as art-fid feeds its network.

    Pictures with a side below 75, which art-fid cannot take, are enlarged until it is 75.
    """
    scaled = pixels.to(torch.float32).div(255.0)
    height, width = scaled.shape[2:]
    smaller = min(height, width)
    if smaller >= _SMALLEST:
        return scaled
    size = tuple(max(_SMALLEST, round(side * _SMALLEST / smaller)) for side in (height, width))
    return functional.interpolate(scaled, size=size, mode="bilinear", align_corners=False)


def load(path: str) -> Network:
    """pooled: pool3 (2048). The heads that name styles and artists are left in the file."""
    from torchvision.models import inception_v3

    with torch.device("meta"):
        whole = inception_v3(weights=None, aux_logits=False, transform_input=False, init_weights=False)
    del whole.fc
    body = {name: tensor for name, tensor in read_tensors(path, _NAME).items() if not _of_a_head(name)}
    fill(whole, body, path, _NAME)
    pooled = Pool3(whole)
    return Network(pooled=pooled, preprocess={"art-fid": art_fid}, modules=(pooled,))


def _of_a_head(name: str) -> bool:
    return name.startswith(("AuxLogits", "fc"))
