"""One evaluation: a snapshot's images in, its scores out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from metricwatch import __version__
from metricwatch.api import Need
from metricwatch.errors import InputError, TemporaryError
from metricwatch.protocol import Configure, Evaluate
from metricwatch.records import Evaluation, KeptSample, Look, ScoreState, Skipped
from metricwatch.worker.batches import LoadedBatch, is_no_room, keep
from metricwatch.worker.device_state import DeviceLostError, check_room, duty_for, is_lost
from metricwatch.worker.feature_cache import FeatureCache
from metricwatch.worker.loading import Extractors
from metricwatch.worker.log import LogLine, describe, log_failure, one_line
from metricwatch.worker.lookalikes import LookalikeFinder, LookalikeSearch
from metricwatch.worker.looking import Onlooker, onlooker_for
from metricwatch.worker.memory import give_back_freed_memory, keep_freed_memory
from metricwatch.worker.pairing import Pairing
from metricwatch.worker.pairs import PairsDigest
from metricwatch.worker.pins import pinned
from metricwatch.worker.pipeline import Pipeline
from metricwatch.worker.plan import PARTNER_KINDS, Features, Item, Plan, Role, digest_of
from metricwatch.worker.progress import Progress
from metricwatch.worker.reference_cache import ReferenceCache
from metricwatch.worker.references import References
from metricwatch.worker.sample_plan import SamplePlan
from metricwatch.worker.samples import SampleSet, check_unchanged, list_samples
from metricwatch.worker.sampling import Samplers, Session
from metricwatch.worker.scoring import Scoring, engines_of, group
from metricwatch.worker.versions import version

# They decode pictures, prepare them and compute: another version of one may round otherwise.
_MAKERS = ("torch", "torchvision", "pillow", "timm", "transformers")


@dataclass(slots=True, kw_only=True)
class _Scored:
    """An evaluation before its metrics are asked: how many images were read, and what else is known of them."""

    scorings: list[Scoring]
    provenance: Mapping[str, str] = field(default_factory=dict)
    read: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    pairs: PairsDigest = field(default_factory=PairsDigest)
    phases: Mapping[str, float] = field(default_factory=dict)
    kept: tuple[KeptSample, ...] = ()
    onlooker: Onlooker | None = None
    look: Look | None = None

    def skip(self, path: str, reason: str) -> None:
        self.skipped.append(Skipped(path=path, reason=one_line(reason)))

    def nothing_of(self, count: int) -> str:
        """Why none of the images could be used."""
        first = self.skipped[0]
        return f"none of {count} could be read; first: {one_line(first.path)}: {first.reason}"


class Evaluator:
    """Scores snapshots one after another. Networks and reference statistics stay loaded between them."""

    def __init__(
        self,
        configure: Configure,
        device: torch.device,
        log: LogLine,
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        keep_freed_memory()
        self._log = log
        self._progress = progress
        self._clock = clock
        self._patient = True
        self._extractors = Extractors(configure, device, log, clock)
        self._cache = FeatureCache(configure.cache, configure.feature_cache_bytes, log)
        self._samplers = Samplers()
        self._max_pixels = configure.max_pixels
        self._min_free_gpu_memory = configure.min_free_gpu_memory
        self._duty = duty_for(device, configure)
        self._pipeline = Pipeline(
            device,
            self._cache,
            batch_size=configure.batch_size,
            max_pixels=configure.max_pixels,
            duty=self._duty,
        )
        self._provenance = {
            "precision": configure.precision,
            "device": device.type,
            "torch": torch.__version__,
            "metricwatch": __version__,
        }
        # What numbers depend on beside the pictures and the weights: those of another make are computed anew.
        # Of exact features, engines give the same; of fast ones each gives its own.
        precision = configure.precision if configure.precision == "exact" else f"fast by {configure.engine}"
        makers = [precision, device.type, str(configure.max_pixels), __version__, *map(version, _MAKERS)]
        self._context = digest_of(*(maker.encode() for maker in makers))
        directory = os.path.join(configure.cache, "references") if configure.cache else ""
        self._references = References(
            ReferenceCache(directory, log),
            self._pipeline,
            log=log,
            clock=clock,
        )
        self._finder = LookalikeFinder(
            self._references, self._context, progress, max_pixels=configure.max_pixels, log=log, clock=clock
        )
        self._search: LookalikeSearch | None = None

    def evaluate(self, request: Evaluate) -> Evaluation:
        """Score one snapshot: its images, or the samples that a sampler makes of it.

        A metric that cannot be computed gives scores with a state that says why, and the others go on. Raises
        InputError when there is nothing to score or every metric failed, ChangedError when the files are not
        those of the request's digest (any more), TemporaryError when trying again may help.
        """
        try:
            return self._evaluate(request)
        finally:
            give_back_freed_memory()

    def _evaluate(self, request: Evaluate) -> Evaluation:
        # Before anything takes memory: networks, or the checkpoint.
        check_room(self._pipeline.device, self._min_free_gpu_memory)
        started = self._clock()
        self._patient = request.patient
        before = self._work()
        scored = self._score_samples(request) if request.sampling else self._score_files(request)
        self._progress.phase("computing")
        for scoring in scored.scorings:
            self._guard(scoring, scoring.compute)
        _raise_if_all_failed(scored.scorings)
        common = {**self._provenance, "engine": engines_of(scored.scorings), **scored.provenance}
        seconds = self._clock() - started
        phases = dict(scored.phases)
        if phases:
            phases["score"] = seconds - sum(phases.values())
        return Evaluation(
            scores=tuple(
                score
                for scoring in scored.scorings
                for score in scoring.scores(common, scored.pairs.provenance(scoring.kinds, scoring.reads_prompts))
            ),
            skipped=tuple(scored.skipped),
            images=scored.read,
            seconds=seconds,
            provenance=common,
            work={name: count - before.get(name, 0) for name, count in self._work().items()},
            phases=phases,
            kept=scored.kept,
            look=scored.look,
        )

    def _score_files(self, request: Evaluate) -> _Scored:
        self._progress.phase("listing")
        samples = list_samples(request)
        scorings = self._open(request)
        self._attach_references(scorings, request)
        items = self._pair(scorings, Pairing(samples, request))
        scored = _Scored(scorings=scorings)
        plan = self._begin(scorings)
        scored.onlooker = self._onlooker(request, items, samples, scorings)
        self._progress.phase("scoring", len(items))
        batches = self._pipeline.run(
            items, plan, skip=scored.skip, advance=self._progress.advance, patient=self._patient
        )
        self._feed(scored, batches)
        self._look(scored)
        check_unchanged(request)
        if not scored.read:
            raise InputError(f"no images in {request.path}: {scored.nothing_of(len(items))}")
        return scored

    def _score_samples(self, request: Evaluate) -> _Scored:
        assert request.sampling is not None  # noqa: S101 - evaluate() has looked
        # First of all: networks and references may take minutes to load, and the trainer removes checkpoints.
        self._progress.phase("pinning")
        with pinned(request, self._progress) as pin:
            if pin.copied:
                self._log("info", "checkpoint copied", path=one_line(pin.name), bytes=str(pin.copied))
            sampler = self._samplers.get(request.sampling)
            plan = SamplePlan(request, sampler.spec)
            scorings = self._open(request)
            self._attach_references(scorings, request)
            items = self._pair(scorings, plan)
            session = Session(
                request,
                sampler,
                plan,
                self._pipeline.device,
                batch_size=self._pipeline.batch_size,
                max_pixels=self._max_pixels,
                log=self._log,
                clock=self._clock,
            )
            try:
                self._progress.phase("loading checkpoint")
                session.open(pin)
                scored = self._sampled(request, session, scorings, items, pin.name)
            finally:
                self._samplers.close(request.sampling, self._log)
            # A link does not keep the trainer from writing into the file, and weights may be read as late as that.
            pin.check()
            return scored

    def _sampled(
        self, request: Evaluate, session: Session, scorings: list[Scoring], items: Sequence[Item], name: str
    ) -> _Scored:
        scored = _Scored(scorings=scorings)
        paths = [*session.partner_paths(), *(path for item in items for path in item.partners.values())]
        pictures = self._pipeline.pictures(paths)
        self._progress.phase("sampling", len(items))
        advance = self._progress.advance
        one = self._pipeline.begin(
            self._begin(scorings), pictures, skip=scored.skip, advance=advance, patient=self._patient
        )
        scored.onlooker = self._onlooker(request, items, session.plan, scorings)
        for lot in self._duty.making(session.lots(items, pictures, skip=scored.skip, advance=advance)):
            if scored.onlooker:
                scored.onlooker.made(lot)
            self._feed(scored, one.batches(lot))
        self._pipeline.end()
        self._look(scored)
        if not scored.read and not session.broken:
            raise InputError(f"no samples of {name}: {scored.nothing_of(len(items))}")
        if not scored.read:
            # Said once for all of them.
            scored.skipped.clear()
            for scoring in scorings:
                scoring.end(
                    ScoreState.NON_FINITE, f"none of the {session.broken} samples is finite: the model is broken"
                )
        self._samplers.note_range(session, self._log)
        scored.provenance = session.provenance()
        scored.phases = session.seconds
        scored.kept = tuple(session.kept)
        return scored

    def _onlooker(
        self, request: Evaluate, items: Sequence[Item], source: SampleSet | SamplePlan, scorings: Sequence[Scoring]
    ) -> Onlooker | None:
        return onlooker_for(
            request,
            items,
            source,
            scorings,
            pipeline=self._pipeline,
            extractors=self._extractors,
            context=self._context,
            log=self._log,
            search=self._search,
        )

    def _look(self, scored: _Scored) -> None:
        if scored.onlooker and scored.read:
            self._progress.phase("looking")
            scored.look = scored.onlooker.finish()

    def _work(self) -> dict[str, int]:
        passes = {f"passes {name}": count for name, count in self._extractors.passes().items()}
        return {"decodes": self._pipeline.decodes, "cached": self._pipeline.found, **passes}

    def _open(self, request: Evaluate) -> list[Scoring]:
        if not request.metrics:
            raise InputError("no metric was asked for")
        self._progress.phase("loading")
        scorings = group(request.metrics, request.options)
        for scoring in scorings:
            if scoring.ended:
                self._log("warning", "metric failed", reason=scoring.ended[1], metric=scoring.name)
            self._guard(scoring, partial(scoring.open, self._extractors, self._context))
        _raise_if_all_failed(scorings)
        return scorings

    def _attach_references(self, scorings: Sequence[Scoring], request: Evaluate) -> None:
        self._search = None
        path = request.reference
        needing = [scoring for scoring in scorings if scoring.needs("reference") and not scoring.ended]
        if not needing:
            return
        if path is None:
            for scoring in needing:
                scoring.end(ScoreState.NO_REFERENCE, "no reference set was given to compare with")
            return
        wanted = [scoring.wanted(self._context) for scoring in needing]
        try:
            found = self._references.get(
                path, wanted, self._progress, patient=self._patient, beside=self._finder.wanted(request, needing)
            )
        except Exception as error:  # noqa: BLE001 - each metric that needs the reference fails with it
            for scoring in needing:
                self._fail(scoring, error)
        else:
            for scoring in needing:
                outcome = found[scoring.name]
                if isinstance(outcome, Exception):
                    self._fail(scoring, outcome)
                else:
                    scoring.reference = outcome
        _raise_if_all_failed(scorings)
        self._search = self._finder.search(request, needing)

    def _pair(self, scorings: Sequence[Scoring], pairing: Pairing | SamplePlan) -> list[Item]:
        kinds: tuple[Need, ...] = (*PARTNER_KINDS, "prompt")
        wanted = [kind for kind in kinds if self._pairs(scorings, pairing, kind)]
        items = pairing.items(wanted)
        for kind in wanted:
            if not any(item.prompt if kind == "prompt" else kind in item.partners for item in items):
                for scoring in scorings:
                    if scoring.needs(kind):
                        scoring.end(ScoreState.NO_PAIRS, f"no image has a {pairing.describe(kind)}")
        _raise_if_all_failed(scorings)
        return items

    def _pairs(self, scorings: Sequence[Scoring], pairing: Pairing | SamplePlan, kind: Need) -> bool:
        """True when images need a partner of this kind (or a prompt) and may have one."""
        reading = [scoring for scoring in scorings if scoring.reads(kind) and not scoring.ended]
        if not reading:
            return False
        try:
            obstacle = pairing.open(kind)
        except InputError as error:
            for scoring in reading:
                self._fail(scoring, error)
            return False
        needing = [scoring for scoring in reading if scoring.needs(kind)]
        for scoring in needing if obstacle else ():
            scoring.end(ScoreState.NO_PAIRS, obstacle)
        return bool(needing) and not obstacle

    def _begin(self, scorings: Sequence[Scoring]) -> Plan:
        """Get the metrics that are still in ready; what they want of a pass."""
        for scoring in scorings:
            self._guard(scoring, scoring.start)
        return plan_of([scoring for scoring in scorings if not scoring.ended], self._context)

    def _feed(self, scored: _Scored, batches: Iterable[LoadedBatch]) -> None:
        """Feed batches to all metrics that are still in."""
        for batch in batches:
            scored.read += len(batch)
            scored.pairs.add(batch)
            for scoring in scored.scorings:
                self._guard(scoring, partial(scoring.update, batch, self._extractors, partial(keep, self._cache)))
            if scored.onlooker:
                scored.onlooker.see(batch)

    def _guard(self, scoring: Scoring, step: Callable[[], None]) -> None:
        """Run a metric's step unless it has ended; an error ends that metric alone."""
        if scoring.ended:
            return
        try:
            step()
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            self._fail(scoring, error)

    def _fail(self, scoring: Scoring, error: Exception) -> None:
        if isinstance(error, TemporaryError):
            raise error
        if is_lost(error):
            raise DeviceLostError(f"metric {scoring.name!r}: {error}") from error
        if is_no_room(error) and self._patient:
            # The training job shares the GPU and may need less of it later.
            torch.cuda.empty_cache()
            raise TemporaryError(f"metric {scoring.name!r}: there is no room: {error}") from error
        scoring.end(ScoreState.FAILED, describe(error))
        log_failure(self._log, "metric failed", error, metric=scoring.name)


def plan_of(scorings: Sequence[Scoring], context: bytes) -> Plan:
    """What these metrics want of a pass over images and partners."""
    features: dict[tuple[Role, str], Features] = {}
    pixels: set[Role] = set()
    layers: dict[str, frozenset[Role]] = {}
    for scoring in scorings:
        if scoring.metric_class is None:
            continue
        spec = scoring.metric_class.spec
        roles: tuple[Role, ...] = ("image", *scoring.kinds)  # type: ignore[arg-type]
        wanted: list[tuple[Role, str]] = [("image", name) for name in spec.extractors]
        wanted += [(role, name) for name in spec.partner_extractors for role in roles]
        for role, name in wanted:
            features[role, name] = Features.of(scoring.extractors[name], role, context)
        if spec.reads_images and scoring.measure is None:
            pixels.update(roles)
            for name in spec.layers:
                layers[name] = layers.get(name, frozenset()) | frozenset(roles)
    return Plan(
        features=tuple(features.values()),
        measures=tuple(scoring.measure for scoring in scorings if scoring.measure),
        pixels=frozenset(pixels),
        layers=layers,
        extractors={name: each for scoring in scorings for name, each in scoring.extractors.items()},
    )


def _raise_if_all_failed(scorings: Sequence[Scoring]) -> None:
    """Raise InputError with the distinct reasons when no metric is left and all failed: there is no evaluation."""
    reasons = [scoring.ended[1] for scoring in scorings if scoring.ended and scoring.ended[0] is ScoreState.FAILED]
    if len(reasons) == len(scorings):
        raise InputError("; ".join(dict.fromkeys(reasons)))
