"""The sampler `torchscript`: generators saved by torch.jit.save, which need no code of theirs."""

from __future__ import annotations

from metricwatch.api import Checkpoint, InputError

from .latents import LatentNetwork, LatentSampler
from .outputs import is_no_room, last_line


class TorchScriptSampler(LatentSampler):
    """Runs a TorchScript program, forward(noise), in evaluation mode.

    Such a program is made of torch's own operators and cannot import or call Python, so a foreign one runs no code on
    this machine. It is no sandbox all the same: it may take all memory and time, and torch has operators that open
    files. Watch programs of people you know.
    """

    def load(self, checkpoint: Checkpoint, device: str) -> LatentNetwork:
        import torch

        name = checkpoint.name or checkpoint.path
        if (kind := checkpoint.kind()) != "torchscript":
            raise InputError(
                f"{name} is no TorchScript program (torch.jit.save makes one), but of the kind {kind!r}; weights are "
                "read by the samplers `safetensors` and `python`"
            )
        try:
            program = torch.jit.load(checkpoint.path, map_location=device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError, OSError) as error:
            if is_no_room(error):
                raise
            raise InputError(f"{name} is a damaged TorchScript program: {last_line(error)}") from error
        network: LatentNetwork = program.eval()
        return network
