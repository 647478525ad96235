"""The second half of a pass: from prepared items to batches with features and layer maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from metricwatch.api import Need
from metricwatch.errors import TemporaryError
from metricwatch.worker.feature_cache import FeatureCache, Row
from metricwatch.worker.images import Pixels
from metricwatch.worker.plan import Measure, Plan, Role
from metricwatch.worker.preparing import Prepared
from metricwatch.worker.resize import resized

# Of the pictures whose layer maps are held at a time, partners included: VGG16's take a kilobyte a pixel.
_LAYER_PIXELS = {"cpu": 600_000, "cuda": 2_400_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedBatch:
    """Items that are alike, with what was wanted of them.

    kinds are the partners that all of them have. images and partners are empty where nobody had to look at them;
    partners have their image's size. measures hold rows that were known already; measure_keys say under which keys
    the others are to be kept.
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
        )


class BatchMaker:
    """Turns the chunks of one pass into batches, with the batch size that has proved to fit."""

    def __init__(self, plan: Plan, cache: FeatureCache, device: torch.device, batch_size: int) -> None:
        self._plan = plan
        self._cache = cache
        self._device = device
        self._size = batch_size
        self._layer_size = batch_size
        self._layer_pixels = _LAYER_PIXELS.get(device.type, _LAYER_PIXELS["cpu"])

    def batches(self, chunk: Sequence[Prepared]) -> Iterator[LoadedBatch]:
        """The batches that a chunk of like items becomes: several where layer maps are wanted."""
        for part, batch in self._pooled(chunk):
            wanted = self._plan.layers_for(part[0].missing_measures)
            roles = {
                name: tuple(role for role in ("image", *batch.partners) if role in each)
                for name, each in wanted.items()
            }
            if not batch.images or not any(roles.values()):
                yield batch
                continue
            by_size: dict[torch.Size, list[int]] = {}
            for row, image in enumerate(batch.images):
                by_size.setdefault(image.shape, []).append(row)
            for shape, rows in by_size.items():
                # What is too small for a network comes without its maps: its metrics leave it out and say so.
                fitting = {name: each for name, each in roles.items() if min(shape[1:]) >= self._smallest_side(name)}
                yield from self._layered(batch.select(rows), fitting)

    def _smallest_side(self, extractor: str) -> int:
        return self._plan.extractors[extractor].spec.smallest_side

    def _pooled(self, chunk: Sequence[Prepared]) -> Iterator[tuple[Sequence[Prepared], LoadedBatch]]:
        waiting = [chunk]
        while waiting:
            part = waiting.pop(0)
            if len(part) > self._size:
                waiting[:0] = [part[: self._size], part[self._size :]]
                continue
            try:
                batch = self._load(part)
            except torch.cuda.OutOfMemoryError as error:
                self._size = _halved(len(part), error)
                waiting.insert(0, part)
                continue
            yield part, batch

    def _layered(self, batch: LoadedBatch, roles: Mapping[str, Sequence[str]]) -> Iterator[LoadedBatch]:
        area = int(batch.images[0].shape[-1] * batch.images[0].shape[-2]) * (1 + len(batch.partners))
        size = min(self._layer_size, max(1, self._layer_pixels // area))
        start = 0
        while start < len(batch):
            part = batch.select(range(start, min(start + size, len(batch))))
            try:
                layers = self._layers(part, roles)
            except torch.cuda.OutOfMemoryError as error:
                self._layer_size = size = _halved(len(part), error)
                continue
            yield replace(part, layers=layers)
            start += len(part)

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
                found = column.extractor.engine.features(pictures[column.role]).cpu()
                rows |= {
                    column.key(prepared.digests[column.role]): row
                    for prepared, row in zip(part, found.numpy(), strict=True)
                }
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
        )

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
        stacks = {"image": torch.stack(part.images)}
        stacks |= {kind: torch.stack(each) for kind, each in part.partners.items()}
        found: dict[tuple[Role, str], Mapping[str, Tensor]] = {}
        for name, wanted in roles.items():
            # One forward pass for an image and its partners together.
            maps = self._plan.extractors[name].engine.layers(torch.cat([stacks[role] for role in wanted]))
            for place, role in enumerate(wanted):
                rows = slice(place * len(part), (place + 1) * len(part))
                found[role, name] = {layer: each[rows] for layer, each in maps.items()}  # type: ignore[index]
        return found

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


def keep(cache: FeatureCache, rows: Mapping[bytes, Row]) -> None:
    """Remember rows that are finite; what is not may be the fault of the day."""
    cache.save({key: row for key, row in rows.items() if np.isfinite(row).all()})


def _measure_key(measure: Measure, prepared: Prepared) -> bytes:
    partners: dict[Need, bytes] = {kind: prepared.digests[kind] for kind in prepared.kinds}  # type: ignore[index]
    return measure.key(prepared.digests["image"], partners, prepared.item.prompt)


def _halved(size: int, error: torch.cuda.OutOfMemoryError) -> int:
    torch.cuda.empty_cache()
    if size == 1:
        raise TemporaryError(f"the GPU has no room even for one image: {error}") from error
    return size // 2
