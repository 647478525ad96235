"""What a way of running a network must give."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

# Preprocessed float32 (N, 3, h, w) to features float32 (N, D), both on the same device.
Forward = Callable[[Tensor], Tensor]
# From a network in evaluation mode, an input of it and a precision. Raises ImpossibleError, or what a library raises.
Prepare = Callable[[nn.Module, Tensor, str], Forward]


class ImpossibleError(Exception):
    """A network that cannot be run in a way. The message is the reason alone."""
