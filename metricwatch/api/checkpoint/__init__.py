"""Checkpoints: files and directories of untrusted weights, read without running code of theirs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metricwatch.api.checkpoint.finding import Ema, find
from metricwatch.api.checkpoint.formats import Format, told
from metricwatch.api.checkpoint.matching import load
from metricwatch.api.checkpoint.reading import read
from metricwatch.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A settled checkpoint. path is a file or directory that stays as it is while the sampler has it open.

    name is what people know it by (the file's own name: path may be a link elsewhere), step its training step.
    """

    path: str
    name: str = ""
    step: int = 0

    def kind(self) -> Format:
        """What kind of file it is, by what is in it.

        Raises InputError for a directory, and for a file that is empty, cut short or of another format.
        """
        if os.path.isdir(self.path):
            raise InputError(f"{self._called()} is a directory; this sampler reads one file")
        return told(self.path, self._called())

    def tree(self) -> Mapping[str, Any]:
        """All it holds, tensors on the CPU. Raises InputError when it is damaged or of a format we do not read.

        Read are torch.save's files (a Lightning .ckpt is one), .safetensors, and directories: a Hugging Face model,
        in shards or not, a distributed checkpoint of torch (.metadata and *.distcp), one weights file among others.
        A directory that has weights in its subdirectories alone, as a diffusers pipeline, gives a key for each.
        Tensors may lie in the file still: they are good while the checkpoint stays as it is.
        """
        return read(self.path, self._called())

    def weights(self, at: str = "", *, ema: Ema = "auto") -> dict[str, Tensor]:
        """The weights of one model, by parameter name, on the CPU.

        at: where they are in the tree, keys joined by dots ("state_dict", "models.generator"), or what all names of
        the model begin with ("decoder"), which is then taken off; "": found by the names in common use. ema: "auto"
        takes the moving average where there is one, "always" insists on it, "never" leaves it out; what an average
        does not hold (buffers, a frozen part) is that of the model itself. Raises InputError that says what there is
        when they are not found, or not only there.
        """
        return find(self.tree(), at, ema, self._called()).tensors

    def load_into(self, module: Module, at: str = "", *, ema: Ema = "auto") -> None:
        """Load the weights into a module, all of them. Raises InputError with a short list of what does not match.

        The module keeps its types and its device. at and ema are those of weights(). What DistributedDataParallel
        and torch.compile put before the names ("module.", "_orig_mod.") does not matter, on either side.
        """
        found = find(self.tree(), at, ema, self._called())
        load(module, found, self._called())

    def _called(self) -> str:
        return self.name or os.path.basename(os.path.normpath(self.path))


__all__ = ["Checkpoint", "Ema"]
