"""The body of an Inception-v3, whichever its blocks, down to pool3."""

from __future__ import annotations

from torch import Tensor, nn


class Pool3(nn.Module):
    """(N, 3, h, w) with h, w >= 75 to (N, 2048): torchvision's names in their order, without the classifier."""

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
