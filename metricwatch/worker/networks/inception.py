"""Inception-v3 as FID knows it: pytorch-fid's network, pool3 (2048), in the three protocols that are in use."""

from __future__ import annotations

from pytorch_fid import inception as reference
from torch import nn

from metricwatch.worker.networks import preprocessing
from metricwatch.worker.networks.network import Network
from metricwatch.worker.networks.pool3 import Pool3
from metricwatch.worker.networks.tensors import check_tensors, read_tensors

_NAME = "inception-v3"


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


def load(path: str) -> Network:
    whole = architecture()
    tensors = read_tensors(path, _NAME)
    check_tensors(tensors, whole.state_dict(), path, _NAME)
    whole.load_state_dict(tensors, strict=False)
    pooled = Pool3(whole)
    return Network(
        pooled=pooled,
        preprocess={
            "pytorch-fid": preprocessing.pytorch_fid,
            "tf": preprocessing.tf,
            "clean": preprocessing.clean,
        },
        modules=(pooled,),
    )
