"""One evaluation: a snapshot's images in, its scores out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from metricwatch import __version__
from metricwatch.api import Need
from metricwatch.errors import InputError, TemporaryError
from metricwatch.protocol import Configure, Evaluate
from metricwatch.records import Evaluation, ScoreState, Skipped
from metricwatch.worker.loading import Extractors
from metricwatch.worker.log import LogLine, describe, log_failure
from metricwatch.worker.pipeline import PARTNER_KINDS, Item, Pipeline
from metricwatch.worker.progress import Progress
from metricwatch.worker.reference_cache import ReferenceCache
from metricwatch.worker.references import References, Wanted
from metricwatch.worker.samples import PartnerDirectory, SampleSet, check_unchanged, list_samples, pair
from metricwatch.worker.scoring import Scoring


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
        self._log = log
        self._progress = progress
        self._clock = clock
        self._extractors = Extractors(configure, device, log, clock)
        self._pipeline = Pipeline(device, batch_size=configure.batch_size, max_pixels=configure.max_pixels)
        directory = os.path.join(configure.cache, "references") if configure.cache else ""
        self._references = References(
            ReferenceCache(directory, log), self._pipeline, precision=configure.precision, log=log, clock=clock
        )
        # All engines of this version are one; a faster one would name itself per extractor.
        self._provenance = {
            "precision": configure.precision,
            "engine": "eager",
            "device": device.type,
            "torch": torch.__version__,
            "metricwatch": __version__,
        }

    def evaluate(self, request: Evaluate) -> Evaluation:
        """Score one snapshot.

        A metric that cannot be computed gives scores with a state that says why, and the others go on. Raises
        InputError when there is nothing to score or every metric failed, ChangedError when the files are not
        those of the request's digest (any more), TemporaryError when trying again may help.
        """
        started = self._clock()
        self._progress.phase("listing")
        samples = list_samples(request)
        scorings = self._open(request.metrics)
        self._attach_references(scorings, request.reference)
        items = self._pair(scorings, samples, request)
        skipped: list[Skipped] = []
        read = self._score(scorings, items, skipped)
        check_unchanged(request)
        if not read:
            first = skipped[0]
            raise InputError(
                f"no images in {request.path}: none of {len(items)} could be read; first: {first.path}: {first.reason}"
            )
        self._progress.phase("computing")
        for scoring in scorings:
            self._guard(scoring, scoring.compute)
        _raise_if_all_failed(scorings)
        return Evaluation(
            scores=tuple(score for scoring in scorings for score in scoring.scores(self._provenance)),
            skipped=tuple(skipped),
            images=read,
            seconds=self._clock() - started,
            provenance=dict(self._provenance),
        )

    def _open(self, names: Sequence[str]) -> list[Scoring]:
        if not names:
            raise InputError("no metric was asked for")
        self._progress.phase("loading")
        scorings = [Scoring(name=name) for name in dict.fromkeys(names)]
        for scoring in scorings:
            self._guard(scoring, partial(scoring.open, self._extractors))
            if scoring.needs("prompt"):
                scoring.end(ScoreState.NO_PAIRS, "no prompt was given")
        _raise_if_all_failed(scorings)
        return scorings

    def _attach_references(self, scorings: Sequence[Scoring], path: str | None) -> None:
        needing = [scoring for scoring in scorings if scoring.needs("reference") and not scoring.ended]
        if not needing:
            return
        if path is None:
            for scoring in needing:
                scoring.end(ScoreState.NO_REFERENCE, "no reference set was given to compare with")
            return
        wanted = [
            Wanted(name=scoring.name, metric=scoring.metric_class, extractors=scoring.extractors)
            for scoring in needing
            if scoring.metric_class
        ]
        try:
            found = self._references.get(path, wanted, self._progress)
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

    def _pair(self, scorings: Sequence[Scoring], samples: SampleSet, request: Evaluate) -> list[Item]:
        directories: dict[Need, str | None] = {"content": request.content, "style": request.style}
        partners: dict[Need, PartnerDirectory] = {}
        for kind in PARTNER_KINDS:
            needing = [scoring for scoring in scorings if scoring.needs(kind) and not scoring.ended]
            directory = directories[kind]
            if needing and directory is None:
                for scoring in needing:
                    scoring.end(ScoreState.NO_PAIRS, f"no {kind} directory was given to find partners in")
            elif needing and directory is not None:
                try:
                    partners[kind] = PartnerDirectory(kind, directory)
                except InputError as error:
                    for scoring in needing:
                        self._fail(scoring, error)
        items, matched = pair(samples, partners)
        for kind in partners.keys() - matched:
            for scoring in scorings:
                if scoring.needs(kind):
                    scoring.end(ScoreState.NO_PAIRS, f"no image has a {kind} partner in {directories[kind]}")
        _raise_if_all_failed(scorings)
        return items

    def _score(self, scorings: Sequence[Scoring], items: Sequence[Item], skipped: list[Skipped]) -> int:
        """Feed all images to all metrics that are still in; how many could be read."""
        for scoring in scorings:
            self._guard(scoring, scoring.start)
        extractors = {
            extractor.name: extractor for scoring in scorings if not scoring.ended for extractor in scoring.extractors
        }
        read = 0
        self._progress.phase("scoring", len(items))
        for batch in self._pipeline.run(
            items,
            list(extractors.values()),
            skip=lambda path, reason: skipped.append(Skipped(path=path, reason=reason)),
            advance=self._progress.advance,
        ):
            read += len(batch)
            for scoring in scorings:
                self._guard(scoring, partial(scoring.update, batch))
        return read

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
        if isinstance(error, torch.cuda.OutOfMemoryError):
            # The training job shares the GPU and may need less of it later.
            torch.cuda.empty_cache()
            raise TemporaryError(f"metric {scoring.name!r}: the GPU has no room: {error}") from error
        scoring.end(ScoreState.FAILED, describe(error))
        log_failure(self._log, "metric failed", error, metric=scoring.name)


def _raise_if_all_failed(scorings: Sequence[Scoring]) -> None:
    """Raise InputError with the distinct reasons when no metric is left and all failed: there is no evaluation."""
    reasons = [scoring.ended[1] for scoring in scorings if scoring.ended and scoring.ended[0] is ScoreState.FAILED]
    if len(reasons) == len(scorings):
        raise InputError("; ".join(dict.fromkeys(reasons)))
