"""Stand-in weights for Inception-v3: the real architecture, seeded random numbers of a sane size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from metricwatch.worker.extractors.inception import architecture


def write_inception_weights(path: Path, *, seed: int = 0) -> Path:
    """Save a state dictionary that pytorch-fid itself loads (strictly). Activations neither vanish nor explode."""
    torch.manual_seed(seed)
    network = architecture()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path
