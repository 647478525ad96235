"""One metric within one evaluation: what it needs, how it ended, and the scores it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from metricwatch import catalog
from metricwatch.api import Metric, Need, Value
from metricwatch.errors import PluginError
from metricwatch.records import Score, ScoreState
from metricwatch.worker.loading import Extractor, Extractors
from metricwatch.worker.pipeline import PARTNER_KINDS, LoadedBatch
from metricwatch.worker.references import Reference


@dataclass(slots=True, kw_only=True)
class Scoring:
    """A metric on its way to scores. Once `ended` is set it takes in nothing more."""

    name: str
    metric_class: type[Metric] | None = None
    extractors: tuple[Extractor, ...] = ()
    reference: Reference | None = None
    metric: Metric | None = None
    ended: tuple[ScoreState, str] | None = None
    values: tuple[Value, ...] = field(default=())

    @classmethod
    def load(cls, name: str, extractors: Extractors) -> Scoring:
        """Import the metric and load its networks. Raises MetricwatchError when that cannot be done."""
        scoring = cls(name=name)
        scoring.open(extractors)
        return scoring

    def open(self, extractors: Extractors) -> None:
        """As load(), for one made already: a failure then still knows the metric's keys."""
        self.metric_class = catalog.load_metric(self.name)
        spec = self.metric_class.spec
        self.extractors = tuple(extractors.get(name) for name in spec.extractors)
        for extractor in self.extractors:
            if spec.protocol and spec.protocol != extractor.protocol:
                raise PluginError(
                    f"metric {self.name!r} wants protocol {spec.protocol!r} of {extractor.name!r}, "
                    f"which offers {extractor.protocol!r}"
                )

    def needs(self, need: Need) -> bool:
        return self.metric_class is not None and need in self.metric_class.spec.needs

    def end(self, state: ScoreState, detail: str) -> None:
        self.ended = self.ended or (state, detail)

    def start(self) -> None:
        assert self.metric_class is not None  # noqa: S101 - open() has set it, or the scoring has ended
        self.metric = self.metric_class(self.reference.arrays if self.reference else None)

    def update(self, batch: LoadedBatch) -> None:
        assert self.metric is not None  # noqa: S101 - start() comes first
        kinds = [kind for kind in PARTNER_KINDS if self.needs(kind)]
        part = batch.select([extractor.name for extractor in self.extractors], kinds)
        if len(part):
            self.metric.update(part)

    def compute(self) -> None:
        assert self.metric is not None  # noqa: S101 - start() comes first
        self.values = tuple(self.metric.compute())

    def scores(self, common: Mapping[str, str]) -> list[Score]:
        """A score for each key, with its provenance: `common` and what this metric adds to it.

        Provenance keys: extractor, extractor_digest, protocol, reference_digest (each where it applies), and from
        `common` precision, engine, device, torch, metricwatch.
        """
        spec = self.metric_class.spec if self.metric_class else None
        provenance = dict(common)
        if spec and spec.protocol:
            provenance["protocol"] = spec.protocol
        if self.extractors:
            provenance["extractor"] = ",".join(extractor.name for extractor in self.extractors)
            provenance["extractor_digest"] = ",".join(extractor.digest for extractor in self.extractors)
        if self.reference:
            provenance["reference_digest"] = self.reference.digest
        if self.ended:
            state, detail = self.ended
            keys = spec.keys if spec else (self.name,)
            values = [Value(key=key, value=None, images=0, state=state, detail=detail) for key in keys]
        else:
            values = [_checked(value, self.name) for value in self.values]
        return [
            Score(
                key=value.key,
                value=value.value,
                images=value.images,
                higher_is_better=bool(spec and spec.higher_is_better),
                stderr=value.stderr,
                state=value.state,
                detail=value.detail,
                series=_series(value.key, provenance),
                provenance=provenance,
            )
            for value in values
        ]


def _series(key: str, provenance: Mapping[str, str]) -> str:
    """Hash of what two scores must share to be compared: everything but machine, versions and engine."""
    parts = [key]
    parts += [provenance.get(name, "") for name in ("extractor_digest", "protocol", "precision", "reference_digest")]
    return blake2b("\0".join(parts).encode(), digest_size=6).hexdigest()


def _checked(value: Value, metric: str) -> Value:
    """The value as returned, or a failed one where the metric broke its promise never to return NaN."""
    if value.state is not ScoreState.OK:
        return Value(key=value.key, value=None, images=int(value.images), state=value.state, detail=value.detail)
    if value.value is None or not math.isfinite(value.value):
        detail = f"metric {metric!r} returned {value.value} as if it were a score"
        return Value(key=value.key, value=None, images=int(value.images), state=ScoreState.FAILED, detail=detail)
    stderr = float(value.stderr) if value.stderr is not None and math.isfinite(value.stderr) else None
    return Value(key=value.key, value=float(value.value), images=int(value.images), stderr=stderr, detail=value.detail)
