"""How pixels become the input of networks: each function is one named protocol or a part of one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from metricwatch.worker.networks.pillow_resize import pillow_bicubic

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
_IMAGENET_SIDE = 224
_FID_SIDE = 299


def pytorch_fid(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32 (N, 3, 299, 299): x/255, bilinear without antialiasing, then to [-1, 1].

    The order of operations is pytorch-fid's own (ToTensor first), so that results agree to the last digits.
    """
    scaled = pixels.to(torch.float32).div(255.0)
    resized = functional.interpolate(scaled, size=(_FID_SIDE, _FID_SIDE), mode="bilinear", align_corners=False)
    return 2.0 * resized - 1.0


def tf(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32 (N, 3, 299, 299): TensorFlow 1's bilinear, then (x - 128) / 128.

    Output pixel i lies at i * H/299 of the input, not at the half-pixel centre, as the original FID graph does
    (resize_bilinear_op.cc of TensorFlow 1; torch-fidelity's interpolate_bilinear_2d_like_tensorflow1x). The order of
    operations is the latter's.
    """
    image = pixels.to(torch.float32)
    top, bottom, down = _tf_positions(image.shape[2], image.device)
    left, right, across = _tf_positions(image.shape[3], image.device)
    upper, lower = image[:, :, top], image[:, :, bottom]
    above = upper[..., left] + (upper[..., right] - upper[..., left]) * across
    below = lower[..., left] + (lower[..., right] - lower[..., left]) * across
    return (above + (below - above) * down[:, None] - 128) / 128


def _tf_positions(length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of the 299 places along one axis its neighbours before and after, and its share of the way between."""
    scale = torch.tensor(length / _FID_SIDE, dtype=torch.float32, device=device)
    places = torch.arange(_FID_SIDE, dtype=torch.float32, device=device) * scale
    before = places.long()
    return before, (before + 1).clamp_max(length - 1), places - before


def clean(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32 (N, 3, 299, 299): Pillow's bicubic on floats, then (x - 128) / 128.

    As clean-fid does (Parmar et al. 2022; its build_resizer("clean") and InceptionV3W).
    """
    return (pillow_bicubic(pixels.to(torch.float32), _FID_SIDE) - 128) / 128


def imagenet_224(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32 (N, 3, 224, 224): bilinear with antialiasing, ImageNet mean and deviation.

    Antialiased, because samples are often larger than 224 and aliases would count as differences in quality.
    The whole picture is squeezed into the square: cropping would hide its borders from the score.
    """
    return imagenet(squeeze_224(pixels))


def imagenet_224_bicubic(pixels: Tensor) -> Tensor:
    """As imagenet_224, with Pillow's bicubic on floats, as comparisons of generators on DINOv2 resize."""
    return imagenet(pillow_bicubic(pixels.to(torch.float32), _IMAGENET_SIDE).div(255.0))


def squeeze_224(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32 (N, 3, 224, 224) in 0..1: bilinear with antialiasing."""
    scaled = pixels.to(torch.float32).div(255.0)
    return functional.interpolate(scaled, size=(_IMAGENET_SIDE, _IMAGENET_SIDE), mode="bilinear", antialias=True)


def imagenet_native(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32 of the same size, with ImageNet's mean and deviation."""
    return imagenet(pixels.to(torch.float32).div(255.0))


def imagenet(scaled: Tensor) -> Tensor:
    """Float (N, 3, H, W) in 0..1 to ImageNet's mean 0 and deviation 1."""
    mean = torch.tensor(_IMAGENET_MEAN, device=scaled.device).view(1, 3, 1, 1)
    deviation = torch.tensor(_IMAGENET_DEVIATION, device=scaled.device).view(1, 3, 1, 1)
    return (scaled - mean) / deviation
