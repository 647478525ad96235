"""Metrics: accumulators that turn batches of images into scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from metricwatch.errors import PluginError
from metricwatch.records import ScoreState

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Arrays = Mapping[str, npt.NDArray[np.generic]]
else:
    # The name must exist at run time for plugins to import; numpy need not.
    Arrays = Mapping

Need = Literal["reference", "content", "style", "prompt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """What a metric gives and what it asks for.

    keys: the score keys it may return, the first being the metric's own name where it has a name of its own. A key that
    is the name of another metric is given only where that name is asked for.
    higher_is_better: for all keys, or by key.
    extractors: the feature extractors whose pooled output it reads from Batch.features.
    partner_extractors: those of them that it also reads of the partners it needs (Batch.content_features, ...).
    layers: the extractors whose layer maps it reads, of the images and of the partners it needs (Batch.layers, ...).
    needs: what else must be there. "reference" is a set of images (or saved statistics) to compare with.
    protocol: a name for what the metric itself does to pictures or numbers, part of every score's provenance.
    statistics: metrics with the same name here and the same extractors share their reference's statistics, whatever
    package they come from; "" where they are nobody else's.
    reads_images: False for a metric that reads features alone. It then gets batches without images where the
    features are known already.
    """

    keys: tuple[str, ...]
    higher_is_better: bool | Mapping[str, bool]
    extractors: tuple[str, ...] = ()
    partner_extractors: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    needs: frozenset[Need] = frozenset()
    protocol: str = ""
    statistics: str = ""
    reads_images: bool = True

    def rises(self, key: str) -> bool:
        """True when a higher value of this key is better."""
        return self.higher_is_better if isinstance(self.higher_is_better, bool) else self.higher_is_better[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """N images, decoded once and passed once through each extractor, shared by all metrics.

    names: N names, unique in their set. images: N tensors, uint8, shape (3, H, W), RGB, range 0..255, on the worker's
    device; sizes may differ. Empty for a metric that reads features alone. content, style: N partners, each of its
    image's size (resized bicubic and antialiased where it was not), or empty when the metric did not ask for them.
    prompts: N strings, or empty.

    features: per extractor a float32 tensor (N, D) on the CPU. content_features, style_features: the partners'.
    layers: per extractor the maps of its layers by name, float32 (N, C, h, w) on the worker's device; a batch with
    layers holds pictures of one size. content_layers, style_layers: the partners'.
    text_features: per extractor with a text encoder the embedding (D,) of each prompt in the batch and of each of
    Metric.texts(), float32 on the CPU, of length 1.
    """

    names: tuple[str, ...]
    images: tuple[Tensor, ...] = ()
    content: tuple[Tensor, ...] = ()
    style: tuple[Tensor, ...] = ()
    prompts: tuple[str, ...] = ()
    features: Mapping[str, Tensor] = field(default_factory=dict)
    content_features: Mapping[str, Tensor] = field(default_factory=dict)
    style_features: Mapping[str, Tensor] = field(default_factory=dict)
    layers: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    content_layers: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    style_layers: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    text_features: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def select(self, rows: Sequence[int]) -> Batch:
        """The images at these places, in this order, with all that belongs to them."""
        chosen = list(rows)
        if chosen == list(range(len(self))):
            return self

        def some(items: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(items[row] for row in chosen) if items else ()

        def pooled(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: rows[chosen] for name, rows in features.items()}

        def maps(layers: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
            return {name: pooled(each) for name, each in layers.items()}

        return Batch(
            names=some(self.names),
            images=some(self.images),
            content=some(self.content),
            style=some(self.style),
            prompts=some(self.prompts),
            features=pooled(self.features),
            content_features=pooled(self.content_features),
            style_features=pooled(self.style_features),
            layers=maps(self.layers),
            content_layers=maps(self.content_layers),
            style_layers=maps(self.style_layers),
            text_features=self.text_features,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One computed score. value is None exactly when state is not OK; detail then says what is wrong."""

    key: str
    value: float | None
    images: int
    stderr: float | None = None
    state: ScoreState = ScoreState.OK
    detail: str = ""


class Metric(ABC):
    """An accumulator: update() with batches in any order and grouping, merge() with its like, compute().

    One instance serves one evaluation; an instance fed with the reference images gives, by statistics(), what
    later instances need to know of them. Metrics that need a reference get those arrays as `reference`.

    A reference's images come without partners, prompts and layers.

    Options is a frozen dataclass whose fields are the keys a user may write under the metric's name, or None.
    """

    spec: ClassVar[MetricSpec]
    Options: ClassVar[type[Any] | None] = None

    def __init__(self, reference: Arrays | None = None, options: Any = None) -> None:
        """Options not given are the defaults of Options. Raises ConfigError when they contradict each other."""
        self.reference = reference
        self.options = self.Options() if options is None and self.Options is not None else options

    @abstractmethod
    def update(self, batch: Batch) -> None:
        """Take in N images. Splitting the same images otherwise changes no result beyond rounding."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take in all that `other` has seen. Associative; `other` is left untouched."""

    @abstractmethod
    def compute(self) -> Sequence[Value]:
        """The scores of what was seen so far. Never NaN: a score without a value has a named state."""

    def reads_prompts(self) -> bool:
        """True when the images' own prompts matter to it: those of a spec that needs them, and others that say so."""
        return "prompt" in self.spec.needs

    def texts(self) -> tuple[str, ...]:
        """The texts, beside the images' own prompts, whose embeddings it reads from Batch.text_features."""
        return ()

    def statistics(self) -> Arrays:
        """What compute() needs to know of a reference set, as arrays that np.savez can keep.

        Raises InputError when what was seen cannot serve as a reference (too few images, say).
        """
        raise PluginError(f"metric {self.spec.keys[0]!r} does not take a reference")

    @classmethod
    def complete_statistics(cls, arrays: Arrays) -> Arrays:
        """Check statistics that came from a user's .npz and add what statistics() would have added.

        Raises InputError naming the array that is missing or has the wrong shape.
        """
        raise PluginError(f"metric {cls.spec.keys[0]!r} does not take a reference")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractorInfo:
    """What a metric family knows of an extractor: its name, the end of score keys on it, and its D."""

    name: str
    key: str
    dimensions: int


# An entry point whose name ends in "_" is a family: `fd_` gives `fd_efficientnet_lite0` and so on, one metric for each
# extractor. Called with the same extractor it must give the same class.
MetricFamily = Callable[[ExtractorInfo], type[Metric]]
