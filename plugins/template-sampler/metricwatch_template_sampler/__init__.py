"""A sampler that maps noise to images by a decoder, whose state dict is the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metricwatch.api import Checkpoint, ConfigError, Sampler, SampleRequest, SamplerSpec

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSamplerOptions:
    """latent: the length of the noise. at: where a checkpoint has the decoder's weights; "" where it has one model."""

    latent: int = 16
    at: str = ""

    def __post_init__(self) -> None:
        """Raises ConfigError for a length that no noise has."""
        if self.latent < 1:
            raise ConfigError(f"latent must be at least 1, not {self.latent}")


class TemplateSampler(Sampler):
    """Images of 16 x 16 pixels. They hang on their seeds alone."""

    spec = SamplerSpec()
    Options = TemplateSamplerOptions

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._decoder: Module | None = None

    def open(self, checkpoint: Checkpoint, device: str) -> None:
        # Here, not at the top: the daemon imports this module, and must stay without torch.
        from metricwatch_template_sampler.decoder import Decoder

        decoder = Decoder(self.options.latent)
        checkpoint.load_into(decoder, self.options.at)
        self._decoder = decoder.to(device).eval()

    def sample(self, request: SampleRequest) -> Sequence[Tensor]:
        assert self._decoder is not None  # noqa: S101 - open() comes first
        images: Tensor = self._decoder(request.noise(self.options.latent))
        return list(images)

    def close(self) -> None:
        self._decoder = None


__all__ = ["TemplateSampler", "TemplateSamplerOptions"]
