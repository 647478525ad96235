"""Samplers of networks that make pictures of noise, whatever format the network comes in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from metricwatch.api import Checkpoint, ConfigError, InputError, Sampler, SampleRequest, SamplerSpec

from .outputs import is_no_room, last_line, pictures

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentOptions:
    """latent: the shape of one noise vector (or map), standard normal. range: the lowest and the highest value of the
    pictures that come out, mapped to 0..1.
    """

    latent: tuple[int, ...]
    range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        if not self.latent or min(self.latent) < 1:
            raise ConfigError("latent must be the shape of one noise vector: whole numbers from 1 on, as in [128]")
        low, high = self.range
        if not low < high:
            raise ConfigError("range must be the lowest and the highest value of the pictures, as in [-1, 1]")


class LatentNetwork(Protocol):
    """From noise (N, *latent) to pictures (N, 3 or 1, H, W)."""

    def __call__(self, noise: Tensor, /) -> Any: ...


class LatentSampler(Sampler):
    """Noise in, pictures out. A subclass says how a checkpoint becomes the network, its Options extend LatentOptions.

    open() makes one sample, so that a network of another shape is refused there.
    """

    spec = SamplerSpec()
    Options: ClassVar[type[Any] | None] = LatentOptions

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._network: LatentNetwork | None = None
        self._name = ""
        self._device = "cpu"

    @abstractmethod
    def load(self, checkpoint: Checkpoint, device: str) -> LatentNetwork:
        """The network of a checkpoint, on the device. Raises InputError when there is none that fits."""

    def open(self, checkpoint: Checkpoint, device: str) -> None:
        self.close()
        self._name = checkpoint.name or checkpoint.path
        self._device = device
        self._network = self.load(checkpoint, device)
        try:
            self.sample(SampleRequest(names=("first",), seeds=(0,), device=device))
        except BaseException:
            self.close()
            raise

    def sample(self, request: SampleRequest) -> Sequence[Tensor]:
        import torch

        if self._network is None:
            raise RuntimeError("the sampler is not open")
        latent = tuple(self.options.latent)
        noise = request.noise(*latent)
        try:
            with torch.no_grad():
                made = self._network(noise)
        except Exception as error:
            if is_no_room(error):
                raise
            raise InputError(
                f"{self._name}: its network takes no noise of shape {(len(noise), *latent)} (the option latent is "
                f"{list(latent)}): {last_line(error)}"
            ) from error
        low, high = self.options.range
        found = pictures(made, len(request), f"{self._name}: its network")
        return [self._mapped(picture, low, high) for picture in found]

    def close(self) -> None:
        if self._network is None:
            return
        self._network = None
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    @staticmethod
    def _mapped(picture: Tensor, low: float, high: float) -> Tensor:
        """float32 of the range 0..1. Bytes are pictures already."""
        return (picture.float() - low) / (high - low) if picture.is_floating_point() else picture


def in_portions(network: Callable[[Tensor], Any], least: int, most: int | None) -> LatentNetwork:
    """A network that takes batches of `least` to `most` samples alone, made to take any: cut, and filled up."""

    def call(noise: Tensor, /) -> Any:
        import torch

        made = []
        for part in torch.split(noise, most or len(noise)):
            short = least - len(part)
            filled = torch.cat([part, part[-1:].expand(short, *part.shape[1:])]) if short > 0 else part
            found = network(filled)
            if not isinstance(found, torch.Tensor) or len(found) != len(filled):
                # Whatever it is, it is no batch of pictures: the caller says so.
                return found
            made.append(found[: len(part)])
        return torch.cat(made)

    return call
