"""The network. Put the one that you train here, or import it from where it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Decoder(nn.Module):
    """Noise (N, latent) to images (N, 3, 16, 16) in 0..1."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.first = nn.Linear(latent, 16 * 4 * 4)
        self.second = nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1)
        self.third = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)

    def forward(self, noise: Tensor) -> Tensor:
        maps = torch.relu(self.first(noise)).reshape(-1, 16, 4, 4)
        return torch.sigmoid(self.third(torch.relu(self.second(maps))))
