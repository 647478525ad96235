"""One pass over images: each decoded once, sent to the device once, through each network once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metricwatch.api import Batch, Need
from metricwatch.errors import TemporaryError
from metricwatch.worker.images import Decoder, Pixels, UnusableImageError
from metricwatch.worker.loading import Extractor

# Of one batch with its partners, before resizing: bounds the memory that large pictures take (12 bytes a pixel as
# float32).
_BATCH_PIXELS = 32_000_000
PARTNER_KINDS: tuple[Need, ...] = ("content", "style")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """An image to score: its stem, its file, the files of its partners by kind, and why others are missing."""

    name: str
    path: str
    partners: Mapping[Need, str]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedBatch:
    """Decoded items with their features; partners hold None where an item has none that could be read."""

    names: tuple[str, ...]
    images: tuple[Tensor, ...]
    features: Mapping[str, Tensor]
    partners: Mapping[Need, tuple[Tensor | None, ...]]

    def __len__(self) -> int:
        return len(self.names)

    def select(self, extractors: Sequence[str], kinds: Sequence[Need]) -> Batch:
        """The part of the batch that has all these partners, as metrics see it."""
        rows = [row for row in range(len(self)) if all(self.partners[kind][row] is not None for kind in kinds)]
        index = torch.tensor(rows, dtype=torch.long)
        partners = {
            kind: tuple(tensor for row in rows if (tensor := self.partners[kind][row]) is not None) for kind in kinds
        }
        return Batch(
            names=tuple(self.names[row] for row in rows),
            images=tuple(self.images[row] for row in rows),
            features={name: self.features[name][index.to(self.features[name].device)] for name in extractors},
            content=partners.get("content", ()),
            style=partners.get("style", ()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoded:
    name: str
    pixels: Pixels
    partners: Mapping[Need, Pixels]


class Pipeline:
    """Feeds images to networks on one device, in batches that fit."""

    def __init__(self, device: torch.device, *, batch_size: int, max_pixels: int) -> None:
        self._device = device
        self._batch_size = max(1, batch_size)
        self._max_pixels = max_pixels

    def run(
        self,
        items: Sequence[Item],
        extractors: Sequence[Extractor],
        *,
        skip: Callable[[str, str], None],
        advance: Callable[[int], None],
    ) -> Iterator[LoadedBatch]:
        """Yield all readable items in order. skip(path, reason) hears of each that is not, or lacks a partner.

        A file that cannot be read is told once, for that alone: its partners no longer matter.

        When the GPU has no room, the batch is halved and tried again, for the rest of this pass; when one image
        alone does not fit, TemporaryError: the training job may need less later.
        """
        size = self._batch_size
        for chunk in self._chunks(items, skip, advance):
            waiting = [chunk]
            while waiting:
                part = waiting.pop(0)
                if len(part) > size:
                    waiting[:0] = [part[:size], part[size:]]
                    continue
                try:
                    batch = self._load(part, extractors)
                except torch.cuda.OutOfMemoryError as error:
                    torch.cuda.empty_cache()
                    if len(part) == 1:
                        raise TemporaryError(f"the GPU has no room even for one image: {error}") from error
                    size = max(1, len(part) // 2)
                    waiting.insert(0, part)
                    continue
                yield batch
                advance(len(part))

    def _chunks(
        self, items: Sequence[Item], skip: Callable[[str, str], None], advance: Callable[[int], None]
    ) -> Iterator[list[_Decoded]]:
        paths = [path for item in items for path in (item.path, *item.partners.values())]
        chunk: list[_Decoded] = []
        pixels = 0
        with Decoder(paths, max_pixels=self._max_pixels, ahead=2 * self._batch_size) as decoder:
            for item in items:
                decoded = _decode(item, decoder, skip)
                if decoded is None:
                    advance(1)
                    continue
                area = sum(each.shape[0] * each.shape[1] for each in (decoded.pixels, *decoded.partners.values()))
                if chunk and (len(chunk) == self._batch_size or pixels + area > _BATCH_PIXELS):
                    yield chunk
                    chunk, pixels = [], 0
                chunk.append(decoded)
                pixels += area
            if chunk:
                yield chunk

    def _load(self, chunk: Sequence[_Decoded], extractors: Sequence[Extractor]) -> LoadedBatch:
        images = self._tensors([item.pixels for item in chunk])
        partners: dict[Need, tuple[Tensor | None, ...]] = {}
        for kind in PARTNER_KINDS:
            found = [row for row, item in enumerate(chunk) if kind in item.partners]
            tensors = self._tensors([chunk[row].partners[kind] for row in found])
            by_row = dict(zip(found, tensors, strict=True))
            partners[kind] = tuple(by_row.get(row) for row in range(len(chunk)))
        return LoadedBatch(
            names=tuple(item.name for item in chunk),
            images=images,
            features={extractor.name: extractor.engine.features(images) for extractor in extractors},
            partners=partners,
        )

    def _tensors(self, pictures: Sequence[Pixels]) -> tuple[Tensor, ...]:
        """uint8 (3, H, W) on the device for each (H, W, 3). Pictures of one size travel together."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for row, picture in enumerate(pictures):
            by_shape.setdefault(picture.shape, []).append(row)
        tensors: dict[int, Tensor] = {}
        for rows in by_shape.values():
            stack = torch.from_numpy(np.stack([pictures[row] for row in rows]))
            moved = stack.to(self._device).permute(0, 3, 1, 2)
            tensors.update(zip(rows, moved.unbind(0), strict=True))
        return tuple(tensors[row] for row in range(len(pictures)))


def _decode(item: Item, decoder: Decoder, skip: Callable[[str, str], None]) -> _Decoded | None:
    """Take an item's files from the decoder: all of them, even when the first is broken, to keep its order."""
    picture: Pixels | None = None
    try:
        picture = decoder.take(item.path)
    except UnusableImageError as error:
        skip(item.path, str(error))
    else:
        for reason in item.missing:
            skip(item.path, reason)
    partners: dict[Need, Pixels] = {}
    for kind, path in item.partners.items():
        try:
            partners[kind] = decoder.take(path)
        except UnusableImageError as error:
            if picture is not None:
                skip(item.path, f"its {kind} partner {path} is unusable: {error}")
    if picture is None:
        return None
    return _Decoded(name=item.name, pixels=picture, partners=partners)
