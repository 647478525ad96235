"""A stack of layers that gives the maps after some of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Tapped(nn.Module):
    """(N, 3, H, W) through a stack, to the outputs of the tapped modules, in order.

    Taps must be outputs that the next module does not change in place: ReLUs are fine, as what follows one is a
    convolution or a pooling.
    """

    def __init__(self, stack: nn.Sequential, taps: Sequence[int]) -> None:
        super().__init__()
        self.stack = stack[: max(taps) + 1]
        self._taps = frozenset(taps)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for index, module in enumerate(self.stack):
            pixels = module(pixels)
            if index in self._taps:
                maps.append(pixels)
        return tuple(maps)
