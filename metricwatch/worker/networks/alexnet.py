"""AlexNet as torchvision has it: the default trunk of lpips."""

from __future__ import annotations

import torch

from metricwatch.worker.networks.classic import classic_network
from metricwatch.worker.networks.network import Network
from metricwatch.worker.networks.tensors import fill, read_tensors

_NAME = "alexnet"
# Where relu1 to relu5 are.
_TAPS = (1, 4, 7, 9, 11)
# Dropout, Linear, ReLU, Dropout, Linear, ReLU.
_HIDDEN = 6


def load(path: str) -> Network:
    """pooled: fc7 after its ReLU (4096)."""
    from torchvision.models import alexnet

    # Without memory or random numbers: 61 million parameters come from the file.
    with torch.device("meta"):
        whole = alexnet(weights=None)
    fill(whole, read_tensors(path, _NAME), path, _NAME)
    return classic_network(whole, hidden=_HIDDEN, taps=_TAPS)
