"""One metric within one evaluation: what it needs, how it ended, and the scores it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
import torch

from metricwatch import catalog
from metricwatch.api import Batch, Metric, Need, PerImageMetric, Value, listed
from metricwatch.errors import ConfigError, PluginError
from metricwatch.records import Score, ScoreState
from metricwatch.worker.batches import LoadedBatch, is_no_room
from metricwatch.worker.feature_cache import Row
from metricwatch.worker.loading import Extractor, Extractors
from metricwatch.worker.log import one_line
from metricwatch.worker.plan import PARTNER_KINDS, Features, Measure, Role, digest_of
from metricwatch.worker.references import Reference, Wanted
from metricwatch.worker.values import well_formed
from metricwatch.worker.versions import make_of

# What a score depends on, beside the images: two scores compare only when all of it is the same.
SERIES_KEYS = ("extractor_digest", "protocol", "precision", "reference_digest", "options")
# And, where a sampler has made the images, what it is and how it was asked.
SAMPLER_KEY = "sampler_digest"
Keep = Callable[[Mapping[bytes, Row]], None]


@dataclass(slots=True, kw_only=True)
class Scoring:
    """A metric on its way to scores. Once `ended` is set it takes in nothing more.

    names are what the user asked for: several names may mean keys of one class, which then computes once.
    """

    names: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    metric_class: type[Metric] | None = None
    extractors: dict[str, Extractor] = field(default_factory=dict)
    reference: Reference | None = None
    metric: Metric | None = None
    measure: Measure | None = None
    ended: tuple[ScoreState, str] | None = None
    values: tuple[Value, ...] = field(default=())
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def kinds(self) -> tuple[Need, ...]:
        """The kinds of partners it needs."""
        return tuple(kind for kind in PARTNER_KINDS if self.needs(kind))

    def open(self, extractors: Extractors, context: bytes) -> None:
        """Load its networks and make the instance. Raises MetricwatchError when that cannot be done.

        context names what all numbers of this worker depend on: precision, libraries.
        """
        assert self.metric_class is not None  # noqa: S101 - group() has set it, or the scoring has ended
        spec = self.metric_class.spec
        for name in dict.fromkeys((*spec.extractors, *spec.partner_extractors, *spec.layers)):
            self.extractors[name] = extractors.get(name)
        self.metric = self.make(None)
        if isinstance(self.metric, PerImageMetric) and spec.reads_images:
            self.measure = self._measure(self.metric_class, context)

    def make(self, reference: Mapping[str, Any] | None) -> Metric:
        """A fresh instance with the user's options. Raises ConfigError when they are refused."""
        assert self.metric_class is not None  # noqa: S101 - as in open()
        if not self.options:
            return self.metric_class(reference)
        if self.metric_class.Options is None:
            raise ConfigError(f"metric {self.name!r} takes no options")
        try:
            options = self.metric_class.Options(
                **{key: tuple(value) if isinstance(value, list) else value for key, value in self.options.items()}
            )
        except TypeError as error:
            raise ConfigError(f"metric {self.name!r}: {error}") from error
        return self.metric_class(reference, options)

    def _measure(self, metric_class: type[Metric], context: bytes) -> Measure:
        spec = metric_class.spec
        used = [f"{name}={each.digest}={each.protocol}" for name, each in sorted(self.extractors.items())]
        parts = [make_of(metric_class), spec.protocol, _text(self.options), *used]
        return Measure(
            name=self.name,
            identity=digest_of(context, *(part.encode() for part in parts)),
            kinds=self.kinds,
            layers=tuple(self.extractors[name] for name in spec.layers),
            reads_prompt=self.reads_prompts,
        )

    def wanted(self, context: bytes) -> Wanted:
        """What it must know of a reference."""
        assert self.metric_class is not None  # noqa: S101 - as in open()
        spec = self.metric_class.spec
        return Wanted(
            name=self.name,
            kind=spec.statistics
            or " ".join((self.name, spec.protocol, _text(self.options), make_of(self.metric_class))),
            make=lambda: self.make(None),
            complete=self.metric_class.complete_statistics,
            features=tuple(Features.of(self.extractors[name], "image", context) for name in spec.extractors),
            reads_images=spec.reads_images,
        )

    @property
    def reads_prompts(self) -> bool:
        return self.metric is not None and self.metric.reads_prompts()

    def reads(self, kind: Need) -> bool:
        """True when partners of this kind, or prompts, matter to it, needed or not."""
        return self.reads_prompts if kind == "prompt" else self.needs(kind)

    def needs(self, need: Need) -> bool:
        return self.metric_class is not None and need in self.metric_class.spec.needs

    def end(self, state: ScoreState, detail: str) -> None:
        self.ended = self.ended or (state, detail)

    def start(self) -> None:
        self.metric = self.make(self.reference.arrays if self.reference else None)

    def update(self, batch: LoadedBatch, extractors: Extractors, keep: Keep) -> None:
        """Take in a batch whose items have all that the metric needs; pass on to keep() what may be asked again."""
        assert self.metric is not None  # noqa: S101 - start() comes first
        if not batch.kinds.issuperset(self.kinds):
            return
        for name in self.extractors:
            if name in batch.failed:
                raise batch.failed[name]
            if name in self._layers and name in batch.unfit and self.name not in batch.measures:
                self.left_out.setdefault(batch.unfit[name], []).extend(batch.names)
                return
        if self.needs("prompt"):
            rows = [row for row, prompt in enumerate(batch.prompts) if prompt]
            if len(rows) < len(batch):
                batch = batch.select(rows)
        if not len(batch):
            return
        if not isinstance(self.metric, PerImageMetric) or self.measure is None:
            self.metric.update(self.batch(batch, extractors))
        elif self.name in batch.measures:
            self.metric.take(batch.names, [row.tolist() for row in batch.measures[self.name]])
            self.metric.attend(self.batch(batch, extractors))
        else:
            self._take(self.metric, batch, extractors, keep)

    def _take(self, metric: PerImageMetric, batch: LoadedBatch, extractors: Extractors, keep: Keep) -> None:
        whole = self.batch(batch, extractors)
        rows = metric.usable(whole)
        if not rows:
            return
        part = whole.select(rows)
        measured = [np.asarray(numbers, dtype=np.float64) for numbers in _measured(metric, part)]
        metric.take(part.names, [row.tolist() for row in measured])
        metric.attend(part)
        if batch.made:
            return
        keys = batch.measure_keys[self.name]
        keep({keys[row]: numbers for row, numbers in zip(rows, measured, strict=True)})

    def batch(self, batch: LoadedBatch, extractors: Extractors) -> Batch:
        """The batch as the metric sees it: what its spec asks for."""
        assert self.metric_class is not None  # noqa: S101 - as in open()
        assert self.metric is not None  # noqa: S101 - start() comes first
        spec = self.metric_class.spec

        def pooled(role: Role, names: Sequence[str]) -> dict[str, Any]:
            return {name: batch.features[role, name] for name in names if (role, name) in batch.features}

        def maps(role: Role) -> dict[str, Any]:
            return {name: batch.layers[role, name] for name in spec.layers if (role, name) in batch.layers}

        prompts = batch.prompts if any(batch.prompts) else ()
        texts = {}
        wanted = [*(prompt for prompt in prompts if prompt and self.reads_prompts), *self.metric.texts()]
        if wanted:
            texts = {
                name: extractors.texts(extractor, wanted)
                for name, extractor in self.extractors.items()
                if extractor.spec.has_text
            }
        kinds = self.kinds
        return Batch(
            names=batch.names,
            images=batch.images if spec.reads_images else (),
            content=batch.partners.get("content", ()) if spec.reads_images and "content" in kinds else (),
            style=batch.partners.get("style", ()) if spec.reads_images and "style" in kinds else (),
            prompts=prompts,
            features=pooled("image", (*spec.extractors, *spec.partner_extractors)),
            content_features=pooled("content", spec.partner_extractors) if "content" in kinds else {},
            style_features=pooled("style", spec.partner_extractors) if "style" in kinds else {},
            layers=maps("image"),
            content_layers=maps("content") if "content" in kinds else {},
            style_layers=maps("style") if "style" in kinds else {},
            text_features=texts,
        )

    @property
    def _layers(self) -> tuple[str, ...]:
        return self.metric_class.spec.layers if self.metric_class else ()

    def compute(self) -> None:
        """Ask the metric for its scores. Raises PluginError when they are not what a metric promises."""
        assert self.metric is not None  # noqa: S101 - start() comes first
        given = {value.key: value for value in map(well_formed, self.metric.compute())}
        if lacking := [key for key in self.keys() if key not in given]:
            raise PluginError(f"metric {self.name!r} has said nothing of {', '.join(lacking)}")
        self.values = tuple(self._noted(given[key]) for key in self.keys())

    def _noted(self, value: Value) -> Value:
        """The value with what was left out before the metric saw it."""
        if not self.left_out:
            return value
        reasons = "; ".join(
            f"left out for {reason}: {listed(sorted(names))}" for reason, names in sorted(self.left_out.items())
        )
        if value.state is ScoreState.OK:
            return replace(value, detail=f"{value.detail}; {reasons}" if value.detail else reasons)
        if value.images:
            return value
        return replace(value, state=ScoreState.TOO_FEW_IMAGES, detail=reasons)

    def keys(self) -> tuple[str, ...]:
        """The keys that were asked for: all but those that are metrics of their own, by a name that was not given."""
        if self.metric_class is None:
            return self.names
        others = set(catalog.names("metrics")).difference(self.names)
        return tuple(key for key in self.metric_class.spec.keys if key not in others)

    def scores(self, common: Mapping[str, str], pairs: Mapping[str, str]) -> list[Score]:
        """A score for each key that was asked for, with its provenance: `common` and what this metric adds to it.

        Provenance keys: extractor, extractor_digest, protocol, reference_digest, options, names_digest, pairs_digest
        (each where it applies), and from `common` precision, engine, device, torch, metricwatch, and with a sampler
        sampler and sampler_digest.
        """
        provenance = {**common, **self._provenance(), **(pairs if self.kinds or self.reads_prompts else {})}
        wanted = self.keys()
        if self.ended:
            state, detail = self.ended
            values = [Value(key=key, value=None, images=0, state=state, detail=detail) for key in wanted]
        else:
            values = list(self.values)
        return [
            Score(
                key=value.key,
                value=value.value,
                images=value.images,
                higher_is_better=self.metric_class is not None and self.metric_class.spec.rises(value.key),
                stderr=value.stderr,
                state=value.state,
                detail=one_line(value.detail),
                series=_series(value.key, provenance),
                provenance=provenance,
            )
            for value in values
        ]

    def _provenance(self) -> dict[str, str]:
        found: dict[str, str] = {}
        spec = self.metric_class.spec if self.metric_class else None
        protocols = [extractor.protocol for name, extractor in self.extractors.items() if _pools(spec, name)]
        protocols += [spec.protocol] if spec and spec.protocol else []
        protocols += ["bicubic-partner"] if spec and self.kinds and (spec.layers or spec.reads_images) else []
        if protocols:
            found["protocol"] = ",".join(protocols)
        if self.extractors:
            found["extractor"] = ",".join(self.extractors)
            found["engine"] = engines_of([self])
            found["extractor_digest"] = ",".join(extractor.digest for extractor in self.extractors.values())
        if self.options:
            found["options"] = _text(self.options)
        if self.reference:
            found["reference_digest"] = self.reference.digest
        return found


def _measured(metric: PerImageMetric, part: Batch) -> list[Sequence[float]]:
    """The numbers of each image of a batch, which is halved as often as there is no room for its measuring."""
    try:
        return list(metric.measure(part))
    except Exception as error:
        if not is_no_room(error) or len(part) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(part) // 2
    return [*_measured(metric, part.select(range(half))), *_measured(metric, part.select(range(half, len(part))))]


def engines_of(scorings: Sequence[Scoring]) -> str:
    """How the networks of these metrics were run, "eager" where there are none."""
    names = {each.engine.name for scoring in scorings for each in scoring.extractors.values()}
    return ",".join(sorted(names)) or "eager"


def group(names: Sequence[str], options: Mapping[str, Mapping[str, Any]]) -> list[Scoring]:
    """A scoring for each metric class that the names mean, with these options; one that cannot be loaded has ended.

    The errors of those are in `ended`, the others are still to be opened.
    """
    found: dict[tuple[object, str], Scoring] = {}
    for name in dict.fromkeys(names):
        chosen = options.get(name, {})
        try:
            metric_class: type[Metric] | None = catalog.load_metric(name)
        except Exception as error:  # noqa: BLE001 - reported with the metric's scores
            found[name, ""] = Scoring(names=(name,), ended=(ScoreState.FAILED, str(error)))
            continue
        key = (metric_class, _text(chosen))
        if key in found:
            found[key].names += (name,)
        else:
            found[key] = Scoring(names=(name,), options=dict(chosen), metric_class=metric_class)
    return list(found.values())


def _pools(spec: Any, name: str) -> bool:
    return bool(spec) and (name in spec.extractors or name in spec.partner_extractors)


def _text(options: Mapping[str, Any]) -> str:
    return json.dumps(options, sort_keys=True, separators=(",", ":")) if options else ""


def _series(key: str, provenance: Mapping[str, str]) -> str:
    """Hash of what two scores must share to be compared: everything but machine, versions and engine."""
    parts = [key, *(provenance.get(name, "") for name in SERIES_KEYS)]
    if SAMPLER_KEY in provenance:
        parts.append(provenance[SAMPLER_KEY])
    return blake2b("\0".join(parts).encode(), digest_size=6).hexdigest()
