"""VGG16 as torchvision has it: the trunk of lpips, of Gram losses and of content losses."""

from __future__ import annotations

import torch

from metricwatch.worker.networks.classic import classic_network
from metricwatch.worker.networks.network import Network
from metricwatch.worker.networks.tensors import fill, read_tensors

_NAME = "vgg16"
# Where relu1_1, relu1_2, relu2_1, relu2_2, relu3_1, relu3_3, relu4_1, relu4_2, relu4_3, relu5_1, relu5_3 are.
_TAPS = (1, 3, 6, 8, 11, 15, 18, 20, 22, 25, 29)
# Linear, ReLU, Dropout, Linear, ReLU.
_HIDDEN = 5


def load(path: str) -> Network:
    """pooled: fc2 after its ReLU (4096)."""
    from torchvision.models import vgg16

    # Without memory or random numbers: 138 million parameters come from the file.
    with torch.device("meta"):
        whole = vgg16(weights=None, init_weights=False)
    fill(whole, read_tensors(path, _NAME), path, _NAME)
    return classic_network(whole, hidden=_HIDDEN, taps=_TAPS)
