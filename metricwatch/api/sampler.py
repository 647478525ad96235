"""Samplers: from a checkpoint to images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from metricwatch.api.metric import Batch, Need


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSpec:
    """What a sampler asks for: the partners it must be given to make images from a checkpoint."""

    needs: frozenset[Need] = frozenset()


class Sampler(ABC):
    """Turns a checkpoint into images, the same seeds and partners at every step."""

    spec: ClassVar[SamplerSpec]

    @abstractmethod
    def open(self, checkpoint: str, device: str) -> None:
        """Load the checkpoint. Raises InputError when it is damaged or of another model."""

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """Yield the samples, batch by batch, in a fixed order."""

    def close(self) -> None:
        """Give the device's memory back."""
