"""Which samples of an evaluation are nearest to images of the reference: a model that copies is seen at a glance.

All of it is best effort: what fails costs a line in the log, never a score.
"""

from __future__ import annotations

import contextlib
import os
import time
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metricwatch.protocol import Evaluate
from metricwatch.records import Lookalike, Neighbour
from metricwatch.worker.batches import LoadedBatch, is_no_room
from metricwatch.worker.containers import UnusableImageError
from metricwatch.worker.device_state import DeviceLostError, is_lost
from metricwatch.worker.images import Pixels
from metricwatch.worker.log import LogLine, log_failure, one_line
from metricwatch.worker.look_folder import LookFolder
from metricwatch.worker.pictures import Picture
from metricwatch.worker.plan import Features, Item
from metricwatch.worker.progress import Progress
from metricwatch.worker.reference_index import Near, ReferenceIndex, index_of
from metricwatch.worker.references import References, Wanted
from metricwatch.worker.scoring import Scoring

# How many images of the reference are shown beside a sample.
NEAREST = 3
# An index that could not be made is not tried again at each evaluation: it may take a pass over the reference.
_RETRY_SECONDS = 600.0
# A sample's own pixels are kept until it is clear that it is among the nearest; larger ones are read anew.
_MOST_HELD_PIXELS = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class _Candidate:
    """A sample among the nearest so far: ordered by its distance, then by its name in the pass."""

    distance: float
    item: str
    nearest: tuple[Near, ...] = field(compare=False)
    digest: bytes = field(compare=False)
    pixels: Tensor | None = field(compare=False)


class LookalikeFinder:
    """Makes indexes of references, in the features of the first metric that compares with one."""

    def __init__(
        self,
        references: References,
        context: bytes,
        progress: Progress,
        *,
        max_pixels: int,
        log: LogLine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._references = references
        self._context = context
        self._progress = progress
        self._max_pixels = max_pixels
        self._log = log
        self._clock = clock
        self._failed: dict[tuple[str, str], float] = {}

    def wanted(self, request: Evaluate, scorings: Sequence[Scoring]) -> list[Wanted]:
        """What search() will ask of the reference: one index, or none where nobody looks or nothing can be found."""
        looking = request.look
        if looking is None or looking.neighbours <= 0 or request.reference is None:
            return []
        space = self._space(scorings)
        # A file of statistics has no images.
        return [index_of(space)] if space and os.path.isdir(request.reference) else []

    def search(self, request: Evaluate, scorings: Sequence[Scoring]) -> LookalikeSearch | None:
        """A search for this evaluation; where there is no index yet it is made now. Raises DeviceLostError alone."""
        try:
            for wanted in self.wanted(request, scorings):
                return self._search(request, wanted)
        except Exception as error:  # noqa: BLE001 - none of it is worth a score
            note_failure(self._log, error)
        return None

    def _space(self, scorings: Sequence[Scoring]) -> Features | None:
        """The features to compare in; None where no metric compares features with a reference's."""
        for scoring in scorings:
            if scoring.needs("reference") and not scoring.ended and scoring.metric_class:
                for name in scoring.metric_class.spec.extractors:
                    return Features.of(scoring.extractors[name], "image", self._context)
        return None

    def _search(self, request: Evaluate, wanted: Wanted) -> LookalikeSearch | None:
        assert request.reference is not None  # noqa: S101 - wanted() has looked
        assert request.look is not None  # noqa: S101 - as above
        place = (request.reference, wanted.key)
        if self._clock() < self._failed.get(place, -np.inf):
            return None
        # Until it has worked out.
        self._failed[place] = self._clock() + _RETRY_SECONDS
        found = self._references.get(request.reference, [wanted], self._progress, patient=request.patient)
        outcome = found[wanted.name]
        if isinstance(outcome, Exception):
            raise outcome
        search = LookalikeSearch(
            ReferenceIndex(outcome.arrays),
            directory=request.reference,
            space=wanted.features[0].extractor.name,
            most=request.look.neighbours,
            max_pixels=self._max_pixels,
            log=self._log,
        )
        del self._failed[place]
        return search


class LookalikeSearch:
    """Keeps the samples of one evaluation that are nearest to the reference: see() each batch, then show().

    Neither the order of batches nor their size matters, but for the rounding of features. space, searched and
    usual_distance are as in records.Look.
    """

    def __init__(
        self, index: ReferenceIndex, *, directory: str, space: str, most: int, max_pixels: int, log: LogLine
    ) -> None:
        self._index = index
        self._directory = directory
        self._most = most
        self._max_pixels = max_pixels
        self._log = log
        self._best: list[_Candidate] = []
        self._failed = False
        self.space = space
        self.searched = len(index)
        self.usual_distance = index.usual_distance

    def see(self, batch: LoadedBatch) -> None:
        """Look at a batch whose features are known. Nothing of it is changed. Raises DeviceLostError alone.

        Once that has failed there are no lookalikes: those of a part would be taken for those of all.
        """
        found = batch.features.get(("image", self.space))
        if self._failed or found is None:
            return
        try:
            self._see(batch, found)
        except Exception as error:  # noqa: BLE001 - none of it is worth a score
            self._failed = True
            self._best.clear()
            note_failure(self._log, error)

    def _see(self, batch: LoadedBatch, found: Tensor) -> None:
        digests = [each["image"] for each in batch.digests]
        nearest = self._index.nearest(found.detach().float().cpu().numpy(), digests, NEAREST)
        for row, some in enumerate(nearest):
            if some and (len(self._best) < self._most or self._before_the_last(some[0].distance, batch.names[row])):
                insort(
                    self._best,
                    _Candidate(
                        distance=some[0].distance,
                        item=batch.names[row],
                        nearest=tuple(some),
                        digest=digests[row],
                        pixels=_held(batch, row),
                    ),
                )
                del self._best[self._most :]

    def show(self, folder: LookFolder, named: Iterable[tuple[str, Item]]) -> tuple[Lookalike, ...]:
        """The nearest samples with small pictures, nearest first; named are all items of the pass with their names.

        A sample whose picture cannot be had (any more) is left out; an image of the reference that cannot has "" for
        its picture. Raises UnwritableError.
        """
        wanted = {candidate.item for candidate in self._best}
        items: dict[str, list[tuple[str, Item]]] = {}
        for name, item in named:
            if item.name in wanted:
                items.setdefault(item.name, []).append((name, item))
        drawn: dict[int, str] = {}
        shown = []
        for candidate in self._best:
            name, item = self._which(candidate, items[candidate.item])
            try:
                pixels = self._picture(item.path, candidate.digest) if candidate.pixels is None else candidate.pixels
            except (UnusableImageError, MemoryError) as error:
                self._tell(item.path, error)
                continue
            image = folder.picture(pixels)
            neighbours = []
            for near in candidate.nearest:
                if near.row not in drawn:
                    drawn[near.row] = self._reference_picture(near.row, folder)
                file = one_line(self._index.names[near.row])
                neighbours.append(Neighbour(name=file, image=drawn[near.row], distance=near.distance))
            shown.append(Lookalike(name=name, image=image, nearest=tuple(neighbours)))
        return tuple(shown)

    def _which(self, candidate: _Candidate, items: Sequence[tuple[str, Item]]) -> tuple[str, Item]:
        """Of several items of one name (a.png and a.jpg) the one whose file it was."""
        for name, item in items if len(items) > 1 else ():
            with contextlib.suppress(UnusableImageError):
                if Picture(item.path, self._max_pixels).digest == candidate.digest:
                    return name, item
        return items[0]

    def _before_the_last(self, distance: float, name: str) -> bool:
        return (distance, name) < (self._best[-1].distance, self._best[-1].item)

    def _reference_picture(self, row: int, folder: LookFolder) -> str:
        path = os.path.join(self._directory, self._index.names[row])
        try:
            pixels = self._picture(path, self._index.digest(row))
        except (UnusableImageError, MemoryError) as error:
            self._tell(path, error)
            return ""
        return folder.picture(pixels)

    def _picture(self, path: str, digest: bytes) -> Pixels:
        """Raises UnusableImageError, also for a file that is not the one whose features were compared."""
        picture = Picture(path, self._max_pixels)
        if picture.digest != digest:
            raise UnusableImageError("it has changed since it was compared")
        return picture.pixels()[0]

    def _tell(self, path: str, error: Exception) -> None:
        self._log("warning", "lookalike not shown", path=one_line(path), reason=one_line(str(error) or repr(error)))


def note_failure(log: LogLine, error: Exception) -> None:
    """Log that there are no lookalikes. Raises DeviceLostError where the device is gone: nothing else will work."""
    if is_lost(error):
        raise DeviceLostError(f"looking for lookalikes: {error}") from error
    if is_no_room(error) and torch.cuda.is_available():
        torch.cuda.empty_cache()
    log_failure(log, "lookalikes failed", error)


def _held(batch: LoadedBatch, row: int) -> Tensor | None:
    """The pixels of an image that no file holds, or of one that is decoded and not too large, on the CPU."""
    if not batch.images or (batch.images[row][0].numel() > _MOST_HELD_PIXELS and not batch.made):
        return None
    # A copy: it is a view of all its batch.
    return batch.images[row].clone().cpu()
