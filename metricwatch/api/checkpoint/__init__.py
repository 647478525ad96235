"""Checkpoints: files and directories of untrusted weights, read without running code of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

Ema = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A settled checkpoint. path is a file or directory that stays as it is while the sampler has it open.

    name is what people know it by (the file's own name: path may be a link elsewhere), step its training step.
    """

    path: str
    name: str = ""
    step: int = 0

    def tree(self) -> Mapping[str, Any]:
        """All it holds, tensors on the CPU. Raises InputError when it is damaged or of a format we do not read."""
        raise NotImplementedError

    def weights(self, at: str = "", *, ema: Ema = "auto") -> dict[str, Tensor]:
        """The weights of one model, by parameter name, on the CPU.

        at: where they are in the tree, keys joined by dots ("state_dict", "models.generator"); "": found by the names
        in common use. Raises InputError that says what there is when they are not found, or not only there.
        """
        raise NotImplementedError

    def load_into(self, module: Module, at: str = "", *, ema: Ema = "auto") -> None:
        """Load the weights into a module, all of them. Raises InputError with a short list of what does not match."""
        raise NotImplementedError


__all__ = ["Checkpoint", "Ema"]
