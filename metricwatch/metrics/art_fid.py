"""ArtFID: content kept times style met (Wright & Ommer 2022, arXiv:2207.12280)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any, Self

from metricwatch.api import Arrays, Batch, ExtractorInfo, Metric, MetricSpec, PerImageMetric, PluginError, Value

_EXTRACTOR = ExtractorInfo(name="art-inception-v3", key="art_inception_v3", dimensions=2048)


class ArtFid(PerImageMetric):
    """(1 + LPIPS) · (1 + FID), as the package art-fid computes it with --mode art_fid.

    LPIPS is on AlexNet, the mean over images and their content partners; FID is the Fréchet distance to the reference,
    the set of style images, on the Inception-v3 that was trained on art. Only images with a content partner count, in
    both. (The package's default mode extrapolates FID to endless images and needs more than 5000.)

    The standard error is (1 + FID) · error of LPIPS + (1 + LPIPS) · error of FID: the delta method for parts that are
    wholly correlated, since they come from the same images. It is never too small, and at most √2 too large where
    they are independent.
    """

    spec = MetricSpec(
        keys=("art_fid",),
        higher_is_better=False,
        extractors=(_EXTRACTOR.name,),
        layers=("alexnet",),
        needs=frozenset({"reference", "content"}),
        protocol="lpips-0.1",
        statistics="moments",
    )

    def __init__(self, reference: Arrays | None = None, options: Any = None) -> None:
        super().__init__(reference, options)
        self._content: PerImageMetric = _plugin("lpips")()
        self._style = _distance()(reference)

    def obstacle(self, height: int, width: int) -> str:
        return self._content.obstacle(height, width)

    def measure(self, batch: Batch) -> Sequence[Sequence[float]]:
        """Each image's LPIPS."""
        return self._content.measure(batch)

    def take(self, names: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
        self._content.take(names, rows)

    def attend(self, batch: Batch) -> None:
        self._style.update(batch)

    def update(self, batch: Batch) -> None:
        # The images of a reference come without partners; small ones come without layers, and are left out.
        if batch.content or batch.content_layers:
            super().update(batch)
        else:
            self._style.update(batch)

    def leave_out(self, name: str, reason: str) -> None:
        self._content.leave_out(name, reason)

    def merge(self, other: Self) -> None:
        self._content.merge(other._content)
        self._style.merge(other._style)

    def compute(self) -> Sequence[Value]:
        (content,), (style,) = self._content.compute(), self._style.compute()
        if content.value is None:
            return [_without_value(content)]
        if style.value is None:
            return [_without_value(style)]
        content_factor, style_factor = 1.0 + content.value, 1.0 + style.value
        stderr = None
        if content.stderr is not None and style.stderr is not None:
            stderr = style_factor * content.stderr + content_factor * style.stderr
        value = content_factor * style_factor
        return [Value(key="art_fid", value=value, images=style.images, stderr=stderr, detail=content.detail)]

    def statistics(self) -> Arrays:
        return self._style.statistics()

    @classmethod
    def complete_statistics(cls, arrays: Arrays) -> Arrays:
        return _distance().complete_statistics(arrays)


def _without_value(part: Value) -> Value:
    return replace(part, key="art_fid", detail=f"{part.key}: {part.detail}")


def _distance() -> type[Metric]:
    family = _plugin("fd_")
    metric: type[Metric] = family(_EXTRACTOR)
    return metric


def _plugin(name: str) -> Any:
    """The metric, or family of metrics, of that name: reached as all plugins are, so that each may move elsewhere."""
    found = entry_points(group="metricwatch.metrics", name=name)
    if not found:
        raise PluginError(f"art_fid is made of the metrics lpips and fd_…, but no plugin named {name!r} is installed")
    *_, last = found
    return last.load()
