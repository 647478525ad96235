"""Samplers: from a checkpoint to images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from metricwatch.api.checkpoint import Checkpoint
from metricwatch.api.metric import Need

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec:
    """What a sampler asks for.

    needs: the partners that each sample must have: "content", "style", "prompt".
    random: False when a sample hangs on its partners alone, whatever its seed. There are then no more samples than
    pairs of partners.
    """

    needs: frozenset[Need] = frozenset()
    random: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """N samples to make: the same names, seeds and partners at every step, so that curves move because the model did.

    names: N names, unique in their set. seeds: N numbers, 0 <= seed < 2**63. content, style: N partners each, uint8,
    shape (3, H, W), RGB, range 0..255, on `device`, in their own sizes; empty when the sampler did not ask for them.
    prompts: N strings, or empty. device: "cpu", "cuda" or "cuda:N".
    """

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    device: str = "cpu"
    content: tuple[Tensor, ...] = ()
    style: tuple[Tensor, ...] = ()
    prompts: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def generators(self) -> list[Generator]:
        """A random number generator for each sample, freshly seeded, on the CPU: alike on every device."""
        import torch

        return [torch.Generator().manual_seed(seed) for seed in self.seeds]

    def noise(self, *shape: int) -> Tensor:
        """Standard normal float32 (N, *shape) on `device`. A sample's row hangs on its own seed alone."""
        import torch

        rows = [torch.randn(shape, generator=generator, dtype=torch.float32) for generator in self.generators()]
        return torch.stack(rows).to(self.device)


class Sampler(ABC):
    """Turns checkpoints into images, one checkpoint after the other.

    An instance lives as long as the worker: what all checkpoints share (a frozen encoder, say) may stay loaded.
    Gradients are off while it samples. How many samples it is asked for at a time must not change them beyond rounding.

    Options is a frozen dataclass whose fields are the keys a user may write beside `use: <name>`, or None. Its values
    must have a form in JSON. The keys use, samples, seed, keep and batch_size are the framework's.

    spec is the class's; an instance whose options decide it sets self.spec in __init__.
    """

    spec: SamplerSpec
    Options: ClassVar[type[Any] | None] = None

    def __init__(self, options: Any = None) -> None:
        """Options not given are the defaults of Options. Raises ConfigError when they contradict each other."""
        self.options = self.Options() if options is None and self.Options is not None else options

    @abstractmethod
    def open(self, checkpoint: Checkpoint, device: str) -> None:
        """Load the checkpoint.

        Raises InputError when it is damaged or of another model, ConfigError where an option names what is not there
        (a function, a folder).
        """

    @abstractmethod
    def sample(self, request: SampleRequest) -> Sequence[Tensor]:
        """Make the N samples of a request, in its order: (3, H, W) or (1, H, W) each, sizes may differ.

        Floating point in the range 0..1 (what lies outside is clamped, as saving it would), or uint8. A batch
        (N, C, H, W) is such a sequence. Values that are not finite are no error: a broken model is what we look for.
        """

    def close(self) -> None:
        """Let go of the checkpoint and its memory. open() may follow."""

    def identity(self) -> str:
        """What samples hang on beside the checkpoint and the options, once open: other weights, versions. Short.

        Scores with another identity are not compared.
        """
        return ""
