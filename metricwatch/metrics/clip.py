"""How near images are to prompts and style images in the embedding of CLIP ViT-B/32 (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from metricwatch.api import Batch, ConfigError, MetricSpec, PerImageMetric, ScoreState, Value

if TYPE_CHECKING:
    from torch import Tensor

_EXTRACTOR = "clip-vit-b-32"
# exp(logit_scale), at which CLIP's training clips it and where the published weights stand.
_LOGIT_SCALE = 100.0


class ClipScore(PerImageMetric):
    """100 · max(cos(image, prompt), 0) (Hessel et al. 2021, arXiv:2104.08718), the mean over images.

    torchmetrics' CLIPScore cuts the mean at 0, not each image: it is lower where some cosines are negative.
    """

    spec = MetricSpec(
        keys=("clip_score",),
        higher_is_better=True,
        extractors=(_EXTRACTOR,),
        needs=frozenset({"prompt"}),
        protocol="cosine-100",
        reads_images=False,
    )

    def measure(self, batch: Batch) -> Sequence[Sequence[float]]:
        import torch

        texts = batch.text_features[_EXTRACTOR]
        prompts = torch.stack([texts[prompt] for prompt in batch.prompts])
        cosines = _cosines(batch.features[_EXTRACTOR], prompts)
        return [(score,) for score in (100.0 * cosines.clamp(min=0.0)).tolist()]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipStyleOptions:
    """The prompt that names the style, "" for each image's own, and the prompts that it is weighed against."""

    prompt: str = ""
    contrast: tuple[str, ...] = ("a photo",)

    def __post_init__(self) -> None:
        if not all(text.strip() for text in self.contrast):
            raise ConfigError("clip_style_score: a contrast prompt is blank; write a text such as 'a photo'")
        if not self.contrast:
            raise ConfigError(
                "clip_style_score: contrast is empty, and the probability of a prompt among itself alone is always 1; "
                "name at least one other prompt, or leave contrast away"
            )
        if self.prompt and self.prompt in self.contrast:
            raise ConfigError(
                f"clip_style_score: contrast holds the style prompt {self.prompt!r} itself; take it out of contrast"
            )


class ClipStyleScore(PerImageMetric):
    """The probability, 0..1, that CLIP gives the style prompt among itself and the contrast prompts.

    softmax(100 · cos(image, prompts)) at the style prompt. The style prompt is the option's, or the image's own;
    images that have neither, or whose own prompt is a contrast prompt, are left out and named.
    """

    Options = ClipStyleOptions
    # Not "prompt": the option may stand for all of them.
    spec = MetricSpec(
        keys=("clip_style_score",),
        higher_is_better=True,
        extractors=(_EXTRACTOR,),
        protocol="softmax-100",
        reads_images=False,
    )

    def reads_prompts(self) -> bool:
        return not self.options.prompt

    def texts(self) -> tuple[str, ...]:
        return (*((self.options.prompt,) if self.options.prompt else ()), *self.options.contrast)

    def usable(self, batch: Batch) -> list[int]:
        rows = super().usable(batch)
        if self.options.prompt:
            return rows
        kept = []
        for row in rows:
            prompt = batch.prompts[row] if batch.prompts else ""
            if not prompt:
                self.leave_out(batch.names[row], "want of a prompt")
            elif prompt in self.options.contrast:
                self.leave_out(batch.names[row], f"a prompt that is a contrast prompt, {prompt!r}")
            else:
                kept.append(row)
        return kept

    def measure(self, batch: Batch) -> Sequence[Sequence[float]]:
        import torch

        texts = batch.text_features[_EXTRACTOR]
        styles = [self.options.prompt] * len(batch) if self.options.prompt else batch.prompts
        images = batch.features[_EXTRACTOR]
        prompts = [torch.stack([texts[style] for style in styles])]
        prompts += [texts[contrast].expand(len(batch), -1) for contrast in self.options.contrast]
        logits = _LOGIT_SCALE * torch.stack([_cosines(images, each) for each in prompts])
        return [(probability,) for probability in logits.softmax(dim=0)[0].tolist()]

    def compute(self) -> Sequence[Value]:
        values = super().compute()
        if not self.left_out or any(value.images for value in values):
            return values
        hint = "name the style by the option prompt of clip_style_score, or give the images prompts"
        return [replace(value, state=ScoreState.NO_PAIRS, detail=f"{value.detail}; {hint}") for value in values]


class ClipStyleSimilarity(PerImageMetric):
    """The cosine, -1..1, between the embeddings of the image and its style partner, the mean over images."""

    spec = MetricSpec(
        keys=("clip_style_similarity",),
        higher_is_better=True,
        extractors=(_EXTRACTOR,),
        partner_extractors=(_EXTRACTOR,),
        needs=frozenset({"style"}),
        protocol="cosine",
        reads_images=False,
    )

    def measure(self, batch: Batch) -> Sequence[Sequence[float]]:
        cosines = _cosines(batch.features[_EXTRACTOR], batch.style_features[_EXTRACTOR])
        return [(cosine,) for cosine in cosines.tolist()]


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    """The cosine of each row of (N, D) with that of the other, float64 (N,); NaN for a row of zeros."""
    import torch

    one, other = one.to(torch.float64), other.to(torch.float64)
    cosines: Tensor = (one * other).sum(dim=1) / (one.norm(dim=1) * other.norm(dim=1))
    # Equal rows may come out at 1 and a rounding.
    return cosines.clamp(-1.0, 1.0)
