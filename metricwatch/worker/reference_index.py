"""An index of a reference's images: which of them are nearest to a picture, in one extractor's pooled features."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from metricwatch.api import Arrays, Batch, Metric, MetricSpec, Value
from metricwatch.errors import InputError
from metricwatch.worker.plan import Features
from metricwatch.worker.references import FilesBatch, Wanted

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

# Rows of an index, and the memory that they take: 20,000 of 2048 features are 164 MB. Half precision would halve that,
# and move each distance by some 3e-4 of a row's length: a copy would no longer stand out at 0.
MOST_IMAGES = 20_000
MOST_BYTES = 170_000_000
# So many rows say what distances within a reference are like.
_USUAL_ROWS = 2_000
# Distances computed at a time: with 20,000 rows of an index 20 MB.
_AT_ONCE = 256
# Float32 decides which rows are looked at in float64: more of them than are wanted, for the sake of its rounding.
_SPARE = 8
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A row of an index, and the Euclidean distance to it."""

    row: int
    distance: float


class ReferenceIndex:
    """Features (N, D; float32) of N images, N >= 1, with their files' names and the digests of their contents.

    usual_distance is the median distance of an image (of at most 2,000) to the nearest other one, None for one image.
    """

    def __init__(self, arrays: Arrays) -> None:
        """From what IndexMaker.statistics() gave."""
        self._features: Float32 = np.asarray(arrays["features"], dtype=np.float32)
        self._squares = _squares(self._features)
        self.names = [str(name) for name in arrays["names"]]
        self._digests = np.asarray(arrays["digests"], dtype=np.uint8)
        usual = float(arrays["usual_distance"])
        self.usual_distance = usual if np.isfinite(usual) else None

    def __len__(self) -> int:
        return len(self.names)

    def digest(self, row: int) -> bytes:
        """BLAKE2b of a file's content, 16 bytes, as Picture has it."""
        return bytes(self._digests[row])

    def nearest(self, features: Float32, digests: Sequence[bytes], count: int) -> list[list[Near]]:
        """For each row of features (n, D) its `count` nearest images, the nearest first, equals by name.

        A picture whose file has the content of one in the index is at distance 0, exactly: networks round otherwise in
        another batch. Rows of features that are not finite get an empty list.
        """
        found: list[list[Near]] = []
        for start in range(0, len(features), _AT_ONCE):
            block = features[start : start + _AT_ONCE]
            rows = _candidates(block, self._features, self._squares, count + _SPARE)
            for own, digest, some in zip(block, digests[start : start + _AT_ONCE], rows, strict=True):
                if not np.isfinite(own).all():
                    found.append([])
                    continue
                distances = _exact(own, self._features[some])
                distances[[self.digest(int(row)) == digest for row in some]] = 0.0
                each = [
                    Near(row=int(row), distance=float(distance)) for row, distance in zip(some, distances, strict=True)
                ]
                found.append(sorted(each, key=lambda near: (near.distance, self.names[near.row]))[:count])
        return found


class IndexMaker(Metric):
    """Collects an index from a pass over a reference. No metric: it has statistics, and no scores.

    Of more than MOST_IMAGES, or MOST_BYTES, those with the smallest digests stay, whatever order they come in: a choice
    that is uniform and always the same. What has features that are not finite is left out.
    """

    spec: ClassVar[MetricSpec] = MetricSpec(keys=("lookalikes",), higher_is_better=True, reads_images=False)

    def __init__(self, reference: Arrays | None = None, options: Any = None, *, most: int = MOST_IMAGES) -> None:
        super().__init__(reference, options)
        self._most = most
        self._features: Float32 = np.empty((0, 0), dtype=np.float32)
        self._labels: list[tuple[str, bytes]] = []
        # The row to give up first is the first of the heap.
        self._heap: list[tuple[int, str, int]] = []

    def update(self, batch: Batch) -> None:
        assert isinstance(batch, FilesBatch)  # noqa: S101 - Wanted asked for it
        (features,) = batch.features.values()
        self._add(batch.names, batch.digests, features.detach().float().cpu().numpy())

    def merge(self, other: Self) -> None:
        names, digests = zip(*other._labels, strict=True) if other._labels else ((), ())
        self._add(names, digests, other._features[: len(names)])

    def compute(self) -> Sequence[Value]:
        return []

    def statistics(self) -> Arrays:
        """features, names, digests (N, 16; uint8) and usual_distance (NaN for one image)."""
        if not self._labels:
            raise InputError("none of its images has finite features")
        features = self._features[: len(self._labels)]
        digests = b"".join(digest for _, digest in self._labels)
        # Sorted by label, for the choice of rows not to hang on the order of arrival.
        chosen = sorted(range(len(features)), key=lambda row: (self._labels[row][1], self._labels[row][0]))
        return {
            "features": features,
            "names": np.array([name for name, _ in self._labels]),
            "digests": np.frombuffer(digests, dtype=np.uint8).reshape(-1, _DIGEST_BYTES),
            "usual_distance": np.array(_usual_distance(features, chosen[:_USUAL_ROWS])),
        }

    def _add(self, names: Sequence[str], digests: Sequence[bytes], features: Float32) -> None:
        if not self._labels and len(features):
            width = features.shape[1]
            # Pages that nobody writes to take no memory.
            self._features = np.empty((max(1, min(self._most, MOST_BYTES // (4 * width))), width), dtype=np.float32)
        for name, digest, row in zip(names, digests, features, strict=True):
            if not np.isfinite(row).all():
                continue
            place = len(self._labels)
            entry = (-int.from_bytes(digest), name, place)
            if place < len(self._features):
                self._labels.append((name, digest))
                heapq.heappush(self._heap, entry)
            elif entry > self._heap[0]:
                place = self._heap[0][2]
                heapq.heapreplace(self._heap, (*entry[:2], place))
                self._labels[place] = (name, digest)
            else:
                continue
            self._features[place] = row


def index_of(features: Features, *, most: int = MOST_IMAGES) -> Wanted:
    """The index of a reference in these features, as References makes and keeps it."""
    return Wanted(
        name="reference index",
        kind="lookalikes" if most == MOST_IMAGES else f"lookalikes {most}",
        make=lambda: IndexMaker(most=most),
        complete=_without_images,
        features=(features,),
        reads_images=False,
        names_files=True,
    )


def _without_images(_: Arrays) -> Arrays:
    raise InputError("statistics hold no images to look for")


def _usual_distance(features: Float32, rows: Sequence[int]) -> float:
    if len(features) == 1:
        return float("nan")
    squares = _squares(features)
    distances = []
    for start in range(0, len(rows), _AT_ONCE):
        chosen = list(rows[start : start + _AT_ONCE])
        found = _candidates(features[chosen], features, squares, 1 + _SPARE)
        for own, some in zip(chosen, found, strict=True):
            others = some[some != own]
            distances.append(float(_exact(features[own], features[others]).min()))
    return float(np.median(distances))


def _squares(features: Float32) -> Float32:
    squares: Float32 = np.einsum("ij,ij->i", features, features)
    return squares


def _candidates(block: Float32, features: Float32, squares: Float32, count: int) -> npt.NDArray[np.intp]:
    """For each row of a block, `count` rows of features that are nearest to it but for rounding, in no order."""
    # |a|² is the same for all of a row: without it the order does not change.
    distances = block @ features.T
    distances *= -2.0
    distances += squares
    if count >= len(features):
        return np.tile(np.arange(len(features)), (len(block), 1))
    return np.argpartition(distances, count - 1, axis=1)[:, :count]


def _exact(own: Float32, others: Float32) -> Float64:
    differences = others.astype(np.float64) - own.astype(np.float64)
    distances: Float64 = np.sqrt(np.einsum("ij,ij->i", differences, differences))
    return distances
