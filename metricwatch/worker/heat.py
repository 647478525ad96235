"""Where samples depart from their content: the map of one metric, chosen once an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metricwatch.api import Need, PerImageMetric
from metricwatch.errors import PluginError
from metricwatch.worker.batches import LoadedBatch
from metricwatch.worker.loading import Extractors
from metricwatch.worker.plan import Features, Plan, Role
from metricwatch.worker.scoring import Scoring, group

# What the eye sees rather than what the pixels are, the closest first.
_PERCEPTUAL = ("lpips", "st_lpips", "lpips_vgg")
# Needs no network: what is taken where no metric that was asked for has maps.
_PLAIN = "ssim"
_AUTO = ("", "auto")


class Heat:
    """The maps of one metric. name is its name, most the value that is drawn as the hottest, kinds its partners."""

    def __init__(self, scoring: Scoring, metric: PerImageMetric, extractors: Extractors, context: bytes) -> None:
        assert metric.hottest is not None  # noqa: S101 - find_heat() has looked
        self.name = scoring.name
        self.most = metric.hottest
        self.kinds: tuple[Need, ...] = scoring.kinds
        self._scoring = scoring
        # An instance of its own: whatever it notes down, no score can hang on it.
        self._metric = metric
        self._extractors = extractors
        self._context = context

    def at_hand(self, batch: LoadedBatch) -> bool:
        """True when a batch holds all that the maps of its images are made from."""
        spec = self._metric.spec
        roles: tuple[Role, ...] = ("image", *self.kinds)  # type: ignore[arg-type]
        return (
            bool(batch.images)
            and batch.kinds.issuperset(self.kinds)
            and all(batch.partners.get(kind) for kind in self.kinds)
            and all((role, name) in batch.layers for name in spec.layers for role in roles)
            and all(("image", name) in batch.features for name in spec.extractors)
            and all((role, name) in batch.features for name in spec.partner_extractors for role in roles)
            and (not self._scoring.needs("prompt") or all(batch.prompts))
        )

    def plan(self) -> Plan:
        """A pass that has all of it at hand."""
        spec = self._metric.spec
        roles: tuple[Role, ...] = ("image", *self.kinds)  # type: ignore[arg-type]
        wanted: list[tuple[Role, str]] = [("image", name) for name in spec.extractors]
        wanted += [(role, name) for name in spec.partner_extractors for role in roles]
        extractors = self._scoring.extractors
        return Plan(
            features=tuple(Features.of(extractors[name], role, self._context) for role, name in dict.fromkeys(wanted)),
            pixels=frozenset(("image", "content", "style")),
            layers={name: frozenset(roles) for name in spec.layers},
            extractors=dict(extractors),
        )

    def maps(self, batch: LoadedBatch) -> Mapping[int, Tensor]:
        """The map (h, w) of each image of a batch that has one, by place. Raises PluginError for one that is no map."""
        usable = [
            row
            for row, image in enumerate(batch.images)
            if not self._metric.obstacle(int(image.shape[-2]), int(image.shape[-1]))
        ]
        if not usable:
            return {}
        seen = self._scoring.batch(batch, self._extractors).select(usable)
        with torch.no_grad():
            found = self._metric.maps(seen)
        if len(found) != len(usable):
            raise PluginError(f"metric {self.name!r} was asked for {len(usable)} maps and gave {len(found)}")
        for values in found:
            if values.ndim != 2 or not values.numel() or not bool(values.isfinite().all()):  # noqa: PLR2004 - h, w
                raise PluginError(f"metric {self.name!r} gave a map of {tuple(values.shape)} that is no picture")
        return dict(zip(usable, found, strict=True))


def find_heat(
    wish: str,
    scorings: Sequence[Scoring],
    options: Mapping[str, Mapping[str, Any]],
    extractors: Extractors,
    context: bytes,
) -> Heat:
    """The metric whose maps are drawn: the one wished for, or for "" and "auto" the first of those asked for that has
    maps, perceptual ones first, else ssim. It need not be among the scorings.

    Raises MetricwatchError when it cannot be loaded, ConfigError or PluginError among them when it has no maps.
    """
    having = [scoring for scoring in scorings if not scoring.ended and _hottest(scoring) is not None]
    if wish in _AUTO:
        having.sort(key=_preference)
        chosen = having[0] if having else None
    else:
        chosen = next((scoring for scoring in having if wish in scoring.names), None)
    if chosen is None:
        name = _PLAIN if wish in _AUTO else wish
        (chosen,) = group((name,), options)
        if chosen.ended:
            raise PluginError(chosen.ended[1])
        if _hottest(chosen) is None:
            raise PluginError(f"metric {name!r} has no maps to draw")
        chosen.open(extractors, context)
    metric = chosen.make(chosen.reference.arrays if chosen.reference else None)
    assert isinstance(metric, PerImageMetric)  # noqa: S101 - as _hottest() has seen
    return Heat(chosen, metric, extractors, context)


def _hottest(scoring: Scoring) -> float | None:
    cls = scoring.metric_class
    return cls.hottest if cls is not None and issubclass(cls, PerImageMetric) else None


def _preference(scoring: Scoring) -> int:
    ranks = [_PERCEPTUAL.index(name) for name in scoring.names if name in _PERCEPTUAL]
    if ranks:
        return min(ranks)
    return len(_PERCEPTUAL) + (_PLAIN in scoring.names)
