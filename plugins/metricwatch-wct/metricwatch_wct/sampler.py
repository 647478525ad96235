"""The sampler: each content picture in its style, by the decoders of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from metricwatch.api import (
    Checkpoint,
    ConfigError,
    Ema,
    InputError,
    MissingWeightsError,
    Sampler,
    SampleRequest,
    SamplerSpec,
    listed,
)

if TYPE_CHECKING:
    from torch import Tensor

    from metricwatch_wct.decoder import Decoder
    from metricwatch_wct.encoder import Encoder

_LEVELS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
_SMALLEST_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class WctOptions:
    """How a checkpoint's decoders stylise.

    encoder: the network they were trained for; auto is vgg16 where its weights are in torch hub's cache, else st-vgg16.
    encoder_weights: a file to read it from. alpha: how much style, 0..1. levels: the decoders to use, by default all
    that are there. size: the longest side of content and style while they are worked on; larger ones are shrunk, and
    the result is enlarged to the content's size again. at, ema: where in the checkpoint the decoders are, and whether
    their averages are taken.
    """

    encoder: Literal["auto", "vgg16", "st-vgg16"] = "auto"
    encoder_weights: Path | None = None
    alpha: float = 1.0
    levels: tuple[str, ...] = ()
    size: int | None = None
    at: str = "decoders"
    ema: Ema = "auto"

    def __post_init__(self) -> None:
        """Raises ConfigError for what cannot be meant."""
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError(f"alpha is {self.alpha:g}; it says how much of the style is taken, from 0 to 1")
        if unknown := [level for level in self.levels if level not in _LEVELS]:
            raise ConfigError(f"levels names {listed(unknown)}; known: {', '.join(_LEVELS)}")
        if self.size is not None and self.size < _SMALLEST_SIZE:
            raise ConfigError(f"size is {self.size}; the encoder needs at least {_SMALLEST_SIZE} pixels")
        if self.encoder_weights is not None and self.encoder == "auto":
            raise ConfigError("encoder_weights names a file; say its network with encoder: vgg16 or encoder: st-vgg16")


class WctSampler(Sampler):
    """Universal style transfer (Li et al. 2017) with the decoders of a checkpoint, on an encoder that stays loaded.

    A checkpoint holds the states of decoders under `at`, with names such as relu2_1.0.weight: see
    metricwatch_wct.decoder. Samples are float, have their content's size, and hang on content and style alone.
    """

    spec = SamplerSpec(needs=frozenset({"content", "style"}), random=False)
    Options = WctOptions
    options: WctOptions

    _encoder: Encoder | None = None
    _decoders: dict[str, Decoder] | None = None

    def open(self, checkpoint: Checkpoint, device: str) -> None:
        from metricwatch_wct.decoder import Decoder, decoders_of

        self.close()
        at, ema = self.options.at, self.options.ema
        decoders = decoders_of(self._levels(checkpoint, checkpoint.weights(at, ema=ema)))
        checkpoint.load_into(decoders, at, ema=ema)
        decoders.requires_grad_(requires_grad=False).eval().to(device)
        self._encoder = self._loaded_encoder().to(device)
        self._decoders = {
            level: decoder
            for level, decoder in decoders.items()
            if isinstance(decoder, Decoder) and level in (self.options.levels or decoders)
        }

    def sample(self, request: SampleRequest) -> Sequence[Tensor]:
        from metricwatch_wct.stylise import stylise

        if self._encoder is None or self._decoders is None:
            raise RuntimeError("sample() before open()")
        contents = [self._worked_on(picture) for picture in request.content]
        styles = [self._worked_on(picture) for picture in request.style]
        made = stylise(self._encoder, self._decoders, contents, styles, alpha=self.options.alpha)
        return [_resized(picture, *own.shape[-2:]) for picture, own in zip(made, request.content, strict=True)]

    def close(self) -> None:
        self._decoders = None

    def identity(self) -> str:
        return f"{self._encoder.architecture} {self._encoder.digest[:12]}" if self._encoder else ""

    def _levels(self, checkpoint: Checkpoint, parameters: Iterable[str]) -> list[str]:
        """The levels whose decoders the checkpoint has. Raises InputError without any, or without one asked for."""
        name = checkpoint.name or Path(checkpoint.path).name
        # A level may stand behind the names of wrappers: module.relu2_1.0.weight.
        parts = {part for parameter in parameters for part in parameter.split(".")}
        found = [level for level in _LEVELS if level in parts]
        if not found:
            raise InputError(
                f"{name}: no decoder at {self.options.at!r}, there is {listed(sorted(parameters))}; "
                "a decoder's parameters are named as in relu2_1.0.weight"
            )
        if absent := [level for level in self.options.levels if level not in found]:
            raise InputError(
                f"{name}: no decoder for {', '.join(absent)}, there is one for {', '.join(found)}; "
                "correct the sampler's levels"
            )
        return found

    def _loaded_encoder(self) -> Encoder:
        if self._encoder is not None:
            return self._encoder
        from metricwatch_wct.pretrained import load_encoder

        try:
            return load_encoder(self.options.encoder, self.options.encoder_weights)
        except FileNotFoundError as error:
            raise MissingWeightsError(f"sampler wct: {error}") from error
        except ValueError as error:
            raise InputError(f"sampler wct: {error}") from error

    def _worked_on(self, picture: Tensor) -> Tensor:
        """uint8 (3, H, W) to float32 in 0..1, no side longer than `size`."""
        scaled = picture.float() / 255.0
        height, width = picture.shape[-2:]
        if self.options.size is None or max(height, width) <= self.options.size:
            return scaled
        ratio = self.options.size / max(height, width)
        return _resized(scaled, max(1, round(height * ratio)), max(1, round(width * ratio)))


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    """Float (3, h, w) to (3, height, width), bilinear with antialiasing; itself where that is its size."""
    from torch.nn import functional

    if picture.shape[-2:] == (height, width):
        return picture
    resized: Tensor = functional.interpolate(picture[None], size=(height, width), mode="bilinear", antialias=True)[0]
    return resized
