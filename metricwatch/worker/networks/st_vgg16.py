"""The shift-tolerant VGG16 of ST-LPIPS (Ghildyal and Liu, ECCV 2022): pooling without aliasing.

Read from the weights file of the package stlpips-pytorch, whose code is not needed. A max pooling of stride 1 and a
blur of stride 2, padded by 2 on every side, stand where VGG16 has a max pooling of stride 2.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from metricwatch.worker.networks import preprocessing
from metricwatch.worker.networks.network import Network
from metricwatch.worker.networks.tapped import Tapped
from metricwatch.worker.networks.tensors import check_tensors, fill, read_tensors

_NAME = "st-vgg16"
_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# The file's slices of the stack: slice1 is modules 0 to 3, and so on.
_SLICES = (0, 4, 10, 18, 26, 34)
# Where relu1_1, relu1_2, relu2_1, relu2_2, relu3_1, relu3_3, relu4_1, relu4_2, relu4_3, relu5_1, relu5_3 are.
_TAPS = (1, 3, 7, 9, 13, 17, 21, 23, 25, 29, 33)


class _Blur(nn.Module):
    """(N, C, H, W) with H, W > 2 to about half the size: reflected by 2 pixels, each channel filtered, stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("filt", torch.empty(channels, 1, 3, 3))

    def forward(self, maps: Tensor) -> Tensor:
        filt = self.get_buffer("filt")
        return functional.conv2d(functional.pad(maps, (2, 2, 2, 2), mode="reflect"), filt, stride=2, groups=len(filt))


class _Mean(nn.Module):
    """(N, 3, 224, 224) to (N, 512): the mean of relu5_3 over the picture."""

    def __init__(self, stack: nn.Sequential) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, pixels: Tensor) -> Tensor:
        maps: Tensor = self.stack(pixels)
        return maps.mean(dim=(2, 3))


class _Scaling:
    """The file's own scaling of pictures in [-1, 1]; it equals ImageNet's mean and deviation."""

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        self._shift = shift
        self._scale = scale

    def squeezed(self, pixels: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to float32 (N, 3, 224, 224)."""
        return self._scaled(preprocessing.squeeze_224(pixels))

    def native(self, pixels: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to float32 of the same size."""
        return self._scaled(pixels.to(torch.float32).div(255.0))

    def _scaled(self, picture: Tensor) -> Tensor:
        return (2.0 * picture - 1.0 - self._shift.to(picture.device)) / self._scale.to(picture.device)


def load(path: str) -> Network:
    """pooled: the mean of relu5_3 (512)."""
    with torch.device("meta"):
        stack = _stack()
        expected = {_in_file(name): tensor for name, tensor in stack.state_dict().items()}
        expected |= {f"scaling_layer.{part}": torch.empty(1, 3, 1, 1) for part in ("shift", "scale")}
        expected |= {
            f"lin{index}.model.1.weight": torch.empty(1, channels, 1, 1) for index, (channels, _) in enumerate(_BLOCKS)
        }
    tensors = read_tensors(path, _NAME)
    check_tensors(tensors, expected, path, _NAME)
    fill(stack, {name: tensors[_in_file(name)] for name in stack.state_dict()}, path, _NAME)
    scaling = _Scaling(tensors["scaling_layer.shift"], tensors["scaling_layer.scale"])
    pooled, layers = _Mean(stack), Tapped(stack, _TAPS)
    return Network(
        pooled=pooled,
        preprocess={"imagenet-224": scaling.squeezed},
        layers=layers,
        normalise=scaling.native,
        modules=(pooled, layers),
    )


def _stack() -> nn.Sequential:
    modules: list[nn.Module] = []
    before = 3
    for channels, convolutions in _BLOCKS:
        if modules:
            modules += [nn.MaxPool2d(kernel_size=2, stride=1), _Blur(before)]
        for _ in range(convolutions):
            modules += [nn.Conv2d(before, channels, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
            before = channels
    return nn.Sequential(*modules)


def _in_file(name: str) -> str:
    """The file's name of a tensor of the stack."""
    place = int(name.partition(".")[0])
    number = next(number for number, (start, end) in enumerate(pairwise(_SLICES), 1) if start <= place < end)
    return f"net.slice{number}.{name}"
