"""A faster way must say the same as the network as it is written, or it is not taken."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from metricwatch.worker.engines.forward import Forward, ImpossibleError

# By precision: how far a feature may lie from exact eager's, in root mean squares of all of them. Sums in another order
# differ by 5e-6; of bfloat16 the furthest of all features differ by 5e-2, their root mean square by 4e-3.
TOLERANCE = {"exact": 1e-4, "fast": 0.1}
_PICTURES = 3
_SIDE = 160


def example(preprocess: Callable[[Tensor], Tensor], device: torch.device) -> Tensor:
    """A network's input made of three seeded pictures, smooth as photographs are: float32 (3, 3, h, w)."""
    maker = torch.Generator().manual_seed(0)
    coarse = torch.rand((_PICTURES, 3, 10, 10), generator=maker)
    fine = torch.rand((_PICTURES, 3, _SIDE, _SIDE), generator=maker)
    smooth = functional.interpolate(coarse, size=(_SIDE, _SIDE), mode="bicubic")
    pictures = (smooth * 230 + fine * 25).clamp(0, 255).to(torch.uint8)
    return preprocess(pictures.to(device))


def difference(forward: Forward, pixels: Tensor, expected: Tensor) -> float:
    """The largest difference of a feature from the expected one, in root mean squares of the expected ones.

    Not a number where a feature is none.
    """
    found = forward(pixels).float()
    if found.shape != expected.shape:
        raise ImpossibleError(f"it gives features of shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    scale = expected.double().square().mean().sqrt().clamp_min(1e-30)
    return float((found.double() - expected.double()).abs().max() / scale)


def check(forward: Forward, pixels: Tensor, expected: Tensor, tolerance: float) -> float:
    """The difference. Raises ImpossibleError with it when it is more than the tolerance, or not a number."""
    for rows in (slice(None), slice(1)):
        # One picture alone as well: other code may serve other batch sizes.
        found = difference(forward, pixels[rows], expected[rows])
        if not found <= tolerance:
            raise ImpossibleError(
                f"its features differ from eager's by {found:.1e} of their size, over {tolerance:.0e}"
            )
    return found
