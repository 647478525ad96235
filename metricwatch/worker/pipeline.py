"""One pass over images: each decoded once, sent to the device once, through each network once, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from metricwatch.errors import TemporaryError
from metricwatch.worker.batches import BatchMaker, LoadedBatch
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
    """Feeds images to networks on one device, in batches that fit. decodes and found count over its life."""

    def __init__(self, device: torch.device, cache: FeatureCache, *, batch_size: int, max_pixels: int) -> None:
        self._device = device
        self._cache = cache
        self._batch_size = max(1, batch_size)
        self._max_pixels = max_pixels
        self.decodes = 0
        self.found = 0

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
        maker = BatchMaker(plan, self._cache, self._device, self._batch_size, patient=patient)
        for chunk in self._chunks(items, plan, skip, advance, patient=patient):
            yield from maker.batches(chunk)
            advance(len(chunk))
        self._cache.note_use()

    def _chunks(
        self,
        items: Sequence[Item],
        plan: Plan,
        skip: Callable[[str, str], None],
        advance: Callable[[int], None],
        *,
        patient: bool,
    ) -> Iterator[list[Prepared]]:
        size = self._batch_size
        paths = [path for item in items for path in (item.path, *item.partners.values())]
        preparer = Preparer(plan, Pictures(paths, self._max_pixels), self._cache)
        reader = ReadAhead(
            items,
            preparer.prepare,
            weigh=lambda prepared: prepared.nbytes,
            ahead=2 * self._batch_size,
            threads=decode_threads(),
        )
        open_chunks: dict[object, list[Prepared]] = {}
        for result in reader:
            prepared = result
            if prepared.no_room:
                # What waits to fill a batch takes memory, too.
                yield from open_chunks.values()
                open_chunks.clear()
                size = max(1, size // 2)
                prepared = _again(preparer, prepared.item, patient=patient)
            for path, reason in prepared.skipped:
                skip(path, reason)
            if not prepared.usable:
                advance(1)
                continue
            chunk = open_chunks.setdefault(prepared.likeness, [])
            if chunk and sum(each.area for each in chunk) + prepared.area > _BATCH_PIXELS:
                yield open_chunks.pop(prepared.likeness)
                chunk = open_chunks.setdefault(prepared.likeness, [])
            chunk.append(prepared)
            if len(chunk) >= size:
                yield open_chunks.pop(prepared.likeness)
            elif sum(each.area for some in open_chunks.values() for each in some) > _BATCH_PIXELS:
                # Many unlike items wait: the memory they take together is bounded as well.
                largest = max(open_chunks, key=lambda key: sum(each.area for each in open_chunks[key]))
                yield open_chunks.pop(largest)
        yield from open_chunks.values()
        self.decodes += preparer.decodes
        self.found += preparer.found


def _again(preparer: Preparer, item: Item, *, patient: bool) -> Prepared:
    """An item for which there was no room. Raises TemporaryError when there is none now, unless that was often so."""
    prepared = preparer.prepare(item)
    if prepared.no_room:
        if patient:
            raise TemporaryError(f"{item.path}: {NO_ROOM}")
        prepared.skipped.append((item.path, NO_ROOM))
    return prepared
