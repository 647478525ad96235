"""The second half of a pass: from prepared items to batches with features and layer maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from metricwatch.api import Need
from metricwatch.errors import InputError, TemporaryError
from metricwatch.worker.feature_cache import FeatureCache, Row
from metricwatch.worker.images import Pixels
from metricwatch.worker.loading import Extractor
from metricwatch.worker.plan import Features, Measure, Plan, Role
from metricwatch.worker.preparing import Prepared
from metricwatch.worker.resize import resized

# Of the pictures whose layer maps are held at a time, partners included: VGG16's take 1.3 kilobytes a pixel. On a CPU
# one picture of 256 x 256 with two partners goes through as fast as many do.
_LAYER_PIXELS = {"cpu": 200_000, "cuda": 2_400_000}
# Of one picture with its partners: 5 and 20 gigabytes. What is larger is left out, and named.
_MOST_LAYER_PIXELS = {"cpu": 4_000_000, "cuda": 16_000_000}
# How allocators beside PyTorch's own word it.
_NO_ROOM = ("out of memory", "can't allocate memory", "ALLOC_FAILED")

Computed = TypeVar("Computed")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedBatch:
    """Items that are alike, with what was wanted of them.

    kinds are the partners that all of them have. images and partners are empty where nobody had to look at them;
    partners have their image's size. measures hold rows that were known already; measure_keys say under which keys
    the others are to be kept, unless the images were made and will never be seen again. unfit says, by extractor, why
    there are no layer maps of these pictures; failed, which extractors have raised what.
    """

    names: tuple[str, ...]
    kinds: frozenset[Need]
    prompts: tuple[str, ...]
    digests: tuple[Mapping[Role, bytes], ...]
    images: tuple[Tensor, ...] = ()
    partners: Mapping[Need, tuple[Tensor, ...]] = field(default_factory=dict)
    features: Mapping[tuple[Role, str], Tensor] = field(default_factory=dict)
    layers: Mapping[tuple[Role, str], Mapping[str, Tensor]] = field(default_factory=dict)
    measures: Mapping[str, tuple[Row, ...]] = field(default_factory=dict)
    measure_keys: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    made: bool = False
    unfit: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, Exception] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def select(self, rows: Sequence[int]) -> LoadedBatch:
        """The items at these places, with all that belongs to them."""
        index = list(rows)
        return LoadedBatch(
            names=tuple(self.names[row] for row in index),
            kinds=self.kinds,
            prompts=tuple(self.prompts[row] for row in index),
            digests=tuple(self.digests[row] for row in index),
            images=tuple(self.images[row] for row in index) if self.images else (),
            partners={kind: tuple(each[row] for row in index) for kind, each in self.partners.items()},
            features={key: each[index] for key, each in self.features.items()},
            layers={key: {name: each[index] for name, each in maps.items()} for key, maps in self.layers.items()},
            measures={key: tuple(each[row] for row in index) for key, each in self.measures.items()},
            measure_keys={key: tuple(each[row] for row in index) for key, each in self.measure_keys.items()},
            made=self.made,
            unfit=self.unfit,
            failed=self.failed,
        )


class BatchMaker:
    """Turns the chunks of one pass into batches, with the batch size that has proved to fit.

    patient: when a GPU has no room for a single image, raise TemporaryError; otherwise that extractor has failed.
    """

    def __init__(
        self, plan: Plan, cache: FeatureCache, device: torch.device, batch_size: int, *, patient: bool
    ) -> None:
        self._plan = plan
        self._cache = cache
        self._device = device
        self._patient = patient
        self._size = batch_size
        self._layer_size = batch_size
        self._layer_pixels = _LAYER_PIXELS.get(device.type, _LAYER_PIXELS["cpu"])
        self._most_layer_pixels = _MOST_LAYER_PIXELS.get(device.type, _MOST_LAYER_PIXELS["cpu"])
        # What has failed once fails its metrics; it is not tried again in this pass.
        self._failed: dict[str, Exception] = {}

    def batches(self, chunk: Sequence[Prepared]) -> Iterator[LoadedBatch]:
        """The batches that a chunk of like items becomes: several where layer maps are wanted."""
        waiting = [chunk]
        while waiting:
            part = waiting.pop(0)
            if len(part) > self._size:
                waiting[:0] = [part[: self._size], part[self._size :]]
                continue
            try:
                batch = self._load(part)
            except Exception as error:  # noqa: BLE001 - raised again where it is no lack of room
                self._size = max(1, len(part) // 2)
                self._give_up(error, alone=len(part) == 1)
                waiting.insert(0, part)
                continue
            yield from self._with_layers(batch, self._plan.layers_for(part[0].missing_measures))

    def _with_layers(self, batch: LoadedBatch, wanted: Mapping[str, frozenset[Role]]) -> Iterator[LoadedBatch]:
        roles = {
            name: tuple(role for role in ("image", *batch.partners) if role in each) for name, each in wanted.items()
        }
        if not batch.images or not any(roles.values()):
            yield batch
            return
        by_size: dict[torch.Size, list[int]] = {}
        for row, image in enumerate(batch.images):
            by_size.setdefault(image.shape, []).append(row)
        for shape, rows in by_size.items():
            height, width = (int(length) for length in shape[1:])
            unfit = {name: reason for name, each in roles.items() if (reason := self._unfit(name, height, width, each))}
            part = replace(batch.select(rows), unfit=unfit)
            yield from self._layered(part, {name: each for name, each in roles.items() if name not in unfit})

    def _unfit(self, extractor: str, height: int, width: int, roles: Sequence[str]) -> str:
        """Why there are no maps of pictures of this size, or ""."""
        smallest = self._plan.extractors[extractor].spec.smallest_side
        if min(height, width) < smallest:
            return f"a side under {smallest} pixels"
        if height * width * len(roles) > self._most_layer_pixels:
            return f"{height} x {width} pixels, whose maps would take too much memory"
        return ""

    def _layered(self, batch: LoadedBatch, roles: Mapping[str, Sequence[str]]) -> Iterator[LoadedBatch]:
        area = int(batch.images[0].shape[-1] * batch.images[0].shape[-2]) * (1 + len(batch.partners))
        start = 0
        while start < len(batch):
            size = min(self._layer_size, max(1, self._layer_pixels // area))
            part = batch.select(range(start, min(start + size, len(batch))))
            try:
                layers = self._layers(part, roles)
            except Exception as error:  # noqa: BLE001 - as above
                self._layer_size = max(1, len(part) // 2)
                self._give_up(error, alone=len(part) == 1)
                continue
            yield replace(part, layers=layers, failed=dict(self._failed))
            start += len(part)

    def _compute(self, extractor: Extractor, work: Callable[[], Computed]) -> Computed | None:
        """What an extractor makes of some pictures, or None when it has failed. Raises _NoRoomError."""
        if extractor.name in self._failed:
            return None
        try:
            return work()
        except Exception as error:
            if is_no_room(error):
                raise _NoRoomError(extractor.name, error) from error
            self._failed[extractor.name] = error
            return None

    def _give_up(self, error: Exception, *, alone: bool) -> None:
        """Make room for the next try; where one image alone found none there is no next try of its kind.

        Raises anything but a lack of room as it is, and InputError where there is none for the pictures themselves.
        """
        if not is_no_room(error):
            raise error
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if not alone:
            return
        extractor = error.extractor if isinstance(error, _NoRoomError) else ""
        reason = f"{extractor or 'pictures'}: there is no room even for one image: {error}"
        if self._patient:
            raise TemporaryError(reason) from error
        if not extractor:
            raise InputError(reason) from error
        self._failed[extractor] = InputError(reason)

    def _load(self, part: Sequence[Prepared]) -> LoadedBatch:
        first = part[0]
        pictures: dict[Role, tuple[Tensor, ...]] = {
            role: self._tensors([prepared.pixels[role] for prepared in part]) for role in first.pixels
        }
        features: dict[tuple[Role, str], Tensor] = {}
        rows: dict[bytes, Row] = {}
        for column in self._plan.features:
            if column.role not in first.digests:
                continue
            if column in first.missing_features:
                digests = [prepared.digests[column.role] for prepared in part]
                found = self._features(column, pictures[column.role], digests)
                if found is None:
                    continue
                if not (first.item.made and column.role == "image"):
                    rows |= {column.key(digest): row for digest, row in zip(digests, found.numpy(), strict=True)}
            else:
                found = torch.from_numpy(np.stack([prepared.features[column] for prepared in part]))
            features[column.role, column.extractor.name] = found
        keep(self._cache, rows)
        return LoadedBatch(
            names=tuple(prepared.item.name for prepared in part),
            kinds=first.kinds,
            prompts=tuple(prepared.item.prompt for prepared in part),
            digests=tuple(prepared.digests for prepared in part),
            images=pictures.get("image", ()),
            partners=self._partners(first, pictures),
            features=features,
            measures={
                measure.name: tuple(prepared.measures[measure] for prepared in part) for measure in first.measures
            },
            measure_keys={
                measure.name: tuple(_measure_key(measure, prepared) for prepared in part)
                for measure in first.missing_measures
            },
            made=first.item.made,
            failed=dict(self._failed),
        )

    def _features(self, column: Features, pictures: Sequence[Tensor], digests: Sequence[bytes]) -> Tensor | None:
        """One forward pass for each different picture: a style that many images share is one."""
        first, place = _different(digests)
        found = self._compute(
            column.extractor, lambda: column.extractor.engine.features([pictures[row] for row in first])
        )
        return None if found is None else found.cpu()[place]

    def _partners(self, first: Prepared, pictures: Mapping[Role, tuple[Tensor, ...]]) -> dict[Need, tuple[Tensor, ...]]:
        """The partners that some metric looks at, in their images' sizes."""
        wanted: set[Role] = set(self._plan.pixels)
        for measure in first.missing_measures:
            wanted.update(measure.kinds)  # type: ignore[arg-type]
        for each in self._plan.layers.values():
            wanted |= each
        return {
            kind: tuple(
                partner
                if partner.shape == image.shape
                else resized(partner, int(image.shape[-2]), int(image.shape[-1]))
                for image, partner in zip(pictures["image"], pictures[kind], strict=True)
            )
            for kind in sorted(first.kinds)
            if kind in wanted and kind in pictures
        }

    def _layers(
        self, part: LoadedBatch, roles: Mapping[str, Sequence[str]]
    ) -> dict[tuple[Role, str], Mapping[str, Tensor]]:
        pictures: dict[str, tuple[Tensor, ...]] = {"image": part.images}
        pictures.update(part.partners.items())
        found: dict[tuple[Role, str], Mapping[str, Tensor]] = {}
        for name, wanted in roles.items():
            # One forward pass for the images and their partners together, each different picture once.
            digests = [digests[role] for role in wanted for digests in part.digests]  # type: ignore[index]
            every = [picture for role in wanted for picture in pictures[role]]
            first, place = _different(digests)
            extractor = self._plan.extractors[name]
            stack = torch.stack([every[row] for row in first])
            maps = self._compute(extractor, partial(extractor.engine.layers, stack))
            if maps is None:
                continue
            for position, role in enumerate(wanted):
                rows = place[position * len(part) : (position + 1) * len(part)]
                found[role, name] = {layer: _rows(each, rows) for layer, each in maps.items()}  # type: ignore[index]
        return found

    def _tensors(self, pictures: Sequence[Pixels | Tensor]) -> tuple[Tensor, ...]:
        """uint8 (3, H, W) on the device for each (H, W, 3). Pictures of one size travel together."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        tensors: dict[int, Tensor] = {}
        for row, picture in enumerate(pictures):
            if isinstance(picture, Tensor):
                tensors[row] = picture.permute(2, 0, 1)
            else:
                by_shape.setdefault(picture.shape, []).append(row)
        for rows in by_shape.values():
            stack = torch.from_numpy(np.stack([pictures[row] for row in rows]))
            moved = stack.to(self._device).permute(0, 3, 1, 2)
            tensors.update(zip(rows, moved.unbind(0), strict=True))
        return tuple(tensors[row] for row in range(len(pictures)))


def keep(cache: FeatureCache, rows: Mapping[bytes, Row]) -> None:
    """Remember rows that are finite; what is not may be the fault of the day."""
    cache.save({key: row for key, row in rows.items() if np.isfinite(row).all()})


def _measure_key(measure: Measure, prepared: Prepared) -> bytes:
    partners: dict[Need, bytes] = {kind: prepared.digests[kind] for kind in prepared.kinds}  # type: ignore[index]
    return measure.key(prepared.digests["image"], partners, prepared.item.prompt)


class _NoRoomError(Exception):
    """An extractor found no memory."""

    def __init__(self, extractor: str, cause: Exception) -> None:
        super().__init__(str(cause))
        self.extractor = extractor


def is_no_room(error: Exception) -> bool:
    """True for a device, or a machine, that has no memory left."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError | _NoRoomError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_ROOM)


def _different(digests: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """The first place of each different digest, and for each place the rank of its own among those."""
    ranks: dict[bytes, int] = {}
    place = [ranks.setdefault(digest, len(ranks)) for digest in digests]
    first: dict[int, int] = {}
    for row, rank in enumerate(place):
        first.setdefault(rank, row)
    return list(first.values()), place


def _rows(maps: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows; a view where they follow each other, as they mostly do."""
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return maps[rows[0] : rows[0] + len(rows)]
    return maps[list(rows)]
