"""One pass over images: each decoded once, sent to the device once, through each network once, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from metricwatch.errors import TemporaryError
from metricwatch.worker.batches import BatchMaker, LoadedBatch
from metricwatch.worker.duty import Duty
from metricwatch.worker.feature_cache import FeatureCache
from metricwatch.worker.images import decode_threads
from metricwatch.worker.pictures import Pictures
from metricwatch.worker.plan import Item, Plan
from metricwatch.worker.preparing import Prepared, Preparer
from metricwatch.worker.read_ahead import ReadAhead

# Of one batch with its partners, before resizing: bounds the memory that large pictures take (12 bytes a pixel as
# float32).
_BATCH_PIXELS = 32_000_000
# The reason for a file that is good: another time it will be scored.
NO_ROOM = "there is no memory to decode it"


class Pipeline:
    """Feeds images to networks on one device, in batches that fit. decodes and found count over its life.

    duty makes the pauses between them; None: there are none.
    """

    def __init__(
        self,
        device: torch.device,
        cache: FeatureCache,
        *,
        batch_size: int,
        max_pixels: int,
        duty: Duty | None = None,
    ) -> None:
        self.device = device
        self.duty = duty or Duty()
        self.batch_size = max(1, batch_size)
        self.decodes = 0
        self.found = 0
        self._cache = cache
        self._max_pixels = max_pixels

    def pictures(self, paths: Iterable[str]) -> Pictures:
        """The files of a pass, each named as often as it is used."""
        return Pictures(paths, self._max_pixels)

    def begin(
        self,
        plan: Plan,
        pictures: Pictures,
        *,
        skip: Callable[[str, str], None],
        advance: Callable[[int], None],
        patient: bool = True,
    ) -> Pass:
        """A pass over items that come in several lots, whose files are among these pictures. See run()."""
        preparer = Preparer(plan, pictures, self._cache)
        maker = BatchMaker(plan, self._cache, self.device, self.batch_size, patient=patient)
        return Pass(self, preparer, maker, skip=skip, advance=advance, patient=patient)

    def run(
        self,
        items: Sequence[Item],
        plan: Plan,
        *,
        skip: Callable[[str, str], None],
        advance: Callable[[int], None],
        patient: bool = True,
    ) -> Iterator[LoadedBatch]:
        """Yield all readable items; items that are alike keep their order.

        skip(path, reason) hears of each that is not readable, or lacks a partner. A file that cannot be read is told
        once, for that alone: its partners no longer matter.

        When the GPU or the machine has no room, the batch is halved and tried again, for the rest of this pass; when
        one image alone does not fit, TemporaryError: the training job may need less later. Unless `patient`, the
        extractor has failed then, as one that raises anything else has: its metrics end, the others go on; and an image
        that could not be decoded is skipped for NO_ROOM.
        """
        pictures = self.pictures(path for item in items for path in (item.path, *item.partners.values()))
        yield from self.begin(plan, pictures, skip=skip, advance=advance, patient=patient).batches(items)
        self.end()

    def end(self) -> None:
        """A pass is over: the cache may note what was used."""
        self._cache.note_use()


class Pass:
    """One pass: what has proved to fit, and what has failed, holds for all of its lots."""

    def __init__(
        self,
        pipeline: Pipeline,
        preparer: Preparer,
        maker: BatchMaker,
        *,
        skip: Callable[[str, str], None],
        advance: Callable[[int], None],
        patient: bool,
    ) -> None:
        self._pipeline = pipeline
        self._preparer = preparer
        self._maker = maker
        self._skip = skip
        self._advance = advance
        self._patient = patient
        self._size = pipeline.batch_size

    def batches(self, items: Iterable[Item]) -> Iterator[LoadedBatch]:
        """The batches that these items become."""
        decodes, found = self._preparer.decodes, self._preparer.found
        for chunk in self._chunks(items):
            yield from self._pipeline.duty.paced(self._maker.batches(chunk))
            self._advance(len(chunk))
        self._pipeline.decodes += self._preparer.decodes - decodes
        self._pipeline.found += self._preparer.found - found

    def _chunks(self, items: Iterable[Item]) -> Iterator[list[Prepared]]:
        reader = ReadAhead(
            items,
            self._preparer.prepare,
            weigh=lambda prepared: prepared.nbytes,
            ahead=2 * self._pipeline.batch_size,
            threads=decode_threads(),
        )
        open_chunks: dict[object, list[Prepared]] = {}
        for result in reader:
            prepared = result
            if prepared.no_room:
                # What waits to fill a batch takes memory, too.
                yield from open_chunks.values()
                open_chunks.clear()
                self._size = max(1, self._size // 2)
                prepared = _again(self._preparer, prepared.item, patient=self._patient)
            for path, reason in prepared.skipped:
                self._skip(path, reason)
            if not prepared.usable:
                self._advance(1)
                continue
            chunk = open_chunks.setdefault(prepared.likeness, [])
            if chunk and sum(each.area for each in chunk) + prepared.area > _BATCH_PIXELS:
                yield open_chunks.pop(prepared.likeness)
                chunk = open_chunks.setdefault(prepared.likeness, [])
            chunk.append(prepared)
            if len(chunk) >= self._size:
                yield open_chunks.pop(prepared.likeness)
            elif sum(each.area for some in open_chunks.values() for each in some) > _BATCH_PIXELS:
                # Many unlike items wait: the memory they take together is bounded as well.
                largest = max(open_chunks, key=lambda key: sum(each.area for each in open_chunks[key]))
                yield open_chunks.pop(largest)
        yield from open_chunks.values()


def _again(preparer: Preparer, item: Item, *, patient: bool) -> Prepared:
    """An item for which there was no room. Raises TemporaryError when there is none now, unless that was often so."""
    prepared = preparer.prepare(item)
    if prepared.no_room:
        if patient:
            raise TemporaryError(f"{item.path}: {NO_ROOM}")
        prepared.skipped.append((item.path, NO_ROOM))
    return prepared
