"""Precision, recall, density and coverage: how far two image sets lie inside each other's neighbourhoods.

A ball around each image of a set reaches to its k-th nearest other image of that set.

    precision  share of samples in at least one ball of the reference     Kynkäänniemi et al. 2019, arXiv:1904.06991
    recall     share of the reference in at least one ball of the samples  (balls closed, as in their code)
    density    balls of the reference that hold a sample, over k, on average          Naeem et al. 2020,
    coverage   share of the reference's balls that hold at least one sample           arXiv:2002.09797
                                                                           (balls open, as in their package prdc)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from metricwatch.api import (
    Arrays,
    ConfigError,
    ExtractorInfo,
    FeatureMetric,
    Metric,
    MetricSpec,
    ScoreState,
    Value,
)

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

# How many nearest distances a reference's statistics hold.
MOST_NEIGHBOURS = 20
_GROUPS = 20
# Rows and columns of a tile: with 2048 dimensions two blocks of features and the distances take 42 MB.
_ROWS = 1024
# Pairs that are measured anew at a time.
_PAIRS = 2048


@dataclass(frozen=True, kw_only=True)
class NeighbourOptions:
    """The k of the balls: of precision and recall, and of density and coverage. 1 to 20."""

    neighbours: int = 3
    density_neighbours: int = 5


class Neighbourhoods(FeatureMetric):
    """The four scores on one extractor. Keeps all features (float32, N x D): memory grows with N, time with N (N + M).

    Squared distances come tile by tile from float64 inner products, which are good to about D·1e-16 of the squared
    lengths; wherever that could decide a comparison, and for each radius, the pair is measured by its difference
    instead. So duplicates are at distance 0 exactly, and an image on the edge of a ball is where the definition has it.

    Precision and density are means over the samples given the reference, and have the standard error of a mean.
    Coverage has a delete-a-group jackknife, which is too large rather than too small (Efron & Stein 1981): by
    simulation a tenth at a coverage of 0.6 to 0.75, two thirds at 0.97. None of them has one where it would be 0: all
    samples, or all groups, agree then, as they do next to 0 and 1. Recall has none: its balls are drawn by the
    samples themselves, all of them grow when some are left out, and no resampling undoes that.

    A reference's statistics are features (M, D; float32) and nearest (M, K; float64), each image's squared distances
    to its K nearest others in ascending order, K being 20 or M - 1; they serve any k up to K. A user's own need
    features.
    """

    Options = NeighbourOptions
    options: NeighbourOptions
    minimum_reason = "a nearest neighbour needs 2 images"

    def __init__(self, reference: Arrays | None = None, options: Any = None) -> None:
        super().__init__(reference, options)
        for name in ("neighbours", "density_neighbours"):
            k = getattr(self.options, name)
            if not 1 <= k <= MOST_NEIGHBOURS:
                raise ConfigError(f"{self.spec.keys[0]}: {name} is {k}; it must be from 1 to {MOST_NEIGHBOURS}")

    def compare(self, features: Float32) -> Sequence[Value]:
        assert self.reference is not None  # noqa: S101 - compute() has seen to it
        reference = np.asarray(self.reference["features"], dtype=np.float32)
        nearest = np.asarray(self.reference["nearest"], dtype=np.float64)
        n, m = len(features), len(reference)
        k, density_k = self.options.neighbours, self.options.density_neighbours
        # Where there are too few neighbours any radius does: the scores that it enters have no value.
        held = _count(
            features,
            reference,
            radii=nearest[:, min(k, m - 1) - 1],
            density_radii=nearest[:, min(density_k, m - 1) - 1],
            sample_radii=_nearest(features, min(k, n - 1))[:, -1],
        )
        numbers = (
            (_mean(held.in_closed_ball.astype(np.float64)), _lack(k, m, "the reference")),
            ((float(held.in_sample_ball.mean()), None), _lack(k, n, "the samples")),
            (_mean(held.open_balls / density_k), _lack(density_k, m, "the reference")),
            (_coverage(held.samples_by_group, n), _lack(density_k, m, "the reference")),
        )
        return [
            Value(key=key, value=None, images=n, state=ScoreState.TOO_FEW_IMAGES, detail=lack)
            if lack
            else Value(key=key, value=value, images=n, stderr=stderr)
            for key, ((value, stderr), lack) in zip(self.spec.keys, numbers, strict=True)
        ]

    def summarise(self, features: Float32) -> Arrays:
        return {"features": features, "nearest": _nearest(features, min(MOST_NEIGHBOURS, len(features) - 1))}

    @classmethod
    def complete_statistics(cls, arrays: Arrays) -> Arrays:
        """Accept an array features (M, D) of M >= 2 images; anything else in the file is left alone."""
        return cls().summarise(cls.given_features(arrays, "Nearest neighbours need each image's features"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """Who lies in whose ball, for n samples and m reference images.

    in_closed_ball (n,): a sample lies in some ball of the reference. in_sample_ball (m,): a reference image lies in
    some ball of the samples. open_balls (n,): how many of the reference's balls for density hold a sample.
    samples_by_group (g, m): how many samples of each group such a ball holds.
    """

    in_closed_ball: npt.NDArray[np.bool_]
    in_sample_ball: npt.NDArray[np.bool_]
    open_balls: npt.NDArray[np.int64]
    samples_by_group: npt.NDArray[np.int64]


def _count(
    features: Float32, reference: Float32, *, radii: Float64, density_radii: Float64, sample_radii: Float64
) -> _Held:
    """Compare all distances with the squared radii of the reference (m,) and (m,) and of the samples (n,)."""
    n, m = len(features), len(reference)
    # Drawn, the same ones each time: files often go round the classes, and every twentieth may be of one class.
    group = np.random.default_rng(n).permutation(n) % min(_GROUPS, n)
    held = _Held(
        in_closed_ball=np.zeros(n, dtype=np.bool_),
        in_sample_ball=np.zeros(m, dtype=np.bool_),
        open_balls=np.zeros(n, dtype=np.int64),
        samples_by_group=np.zeros((min(_GROUPS, n), m), dtype=np.int64),
    )
    for rows in _blocks(n):
        block = _Block(features[rows])
        for columns in _blocks(m):
            other = _Block(reference[columns])
            squared, tolerance = block.distances(other)
            bounds = (radii[None, columns], density_radii[None, columns], sample_radii[rows, None])
            unsure = np.zeros(squared.shape, dtype=np.bool_)
            for bound in bounds:
                unsure |= np.abs(squared - bound) <= tolerance
            at = np.nonzero(unsure)
            squared[at] = _measured(block.rows, other.rows, *at)
            held.in_closed_ball[rows] |= (squared <= bounds[0]).any(axis=1)
            held.in_sample_ball[columns] |= (squared <= bounds[2]).any(axis=0)
            inside = squared < bounds[1]
            held.open_balls[rows] += inside.sum(axis=1)
            for index in range(len(held.samples_by_group)):
                held.samples_by_group[index, columns] += inside[group[rows] == index].sum(axis=0)
    return held


def _nearest(features: Float32, k: int) -> Float64:
    """Squared distances (n, k) of each row to its k nearest others, ascending, k < n."""
    found = np.empty((len(features), k))
    for rows in _blocks(len(features)):
        block = _Block(features[rows])
        own = np.arange(rows.start, rows.stop)
        best = np.full((len(own), k), np.inf)
        places = np.zeros((len(own), k), dtype=np.intp)
        for columns in _blocks(len(features)):
            squared, _ = block.distances(_Block(features[columns]))
            if rows == columns:
                np.fill_diagonal(squared, np.inf)
            candidates = np.concatenate((best, squared), axis=1)
            where = np.concatenate(
                (places, np.broadcast_to(np.arange(columns.start, columns.stop), squared.shape)), axis=1
            )
            chosen = np.argpartition(candidates, k - 1, axis=1)[:, :k]
            best = np.take_along_axis(candidates, chosen, axis=1)
            places = np.take_along_axis(where, chosen, axis=1)
        exact = _measured(features, features, np.repeat(own, k), places.ravel())
        found[rows] = np.sort(exact.reshape(len(own), k), axis=1)
    return found


class _Block:
    """Some rows of a set, in double precision too, with their squared lengths."""

    def __init__(self, rows: Float32) -> None:
        self.rows = rows
        self._double = rows.astype(np.float64)
        self._lengths = np.einsum("ij,ij->i", self._double, self._double)

    def distances(self, other: _Block) -> tuple[Float64, Float64]:
        """Squared distances to all rows of another block, and by how much each may be wrong."""
        sums = self._lengths[:, None] + other._lengths[None, :]
        squared: Float64 = sums - 2.0 * (self._double @ other._double.T)
        # The worst that rounding makes of an inner product of D terms.
        sums *= (self._double.shape[1] + 4) * np.finfo(np.float64).eps
        return squared, sums


def _measured(one: Float32, other: Float32, first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]) -> Float64:
    """Squared distances of pairs of rows by their differences: 0 for equal rows, and the same both ways round."""
    squared = np.empty(len(first))
    for start in range(0, len(first), _PAIRS):
        part = slice(start, start + _PAIRS)
        gap = one[first[part]].astype(np.float64) - other[second[part]]
        squared[part] = np.einsum("ij,ij->i", gap, gap)
    return squared


def _lack(k: int, images: int, what: str) -> str:
    """Why a set has no balls of its k-th nearest neighbours, or ""."""
    return "" if images > k else f"{k} nearest neighbours need {k + 1} images, {what} are {images}"


def _mean(numbers: Float64) -> tuple[float, float | None]:
    """The mean of a number for each sample, and its standard error."""
    return float(numbers.mean()), _known(float(numbers.std(ddof=1) / np.sqrt(len(numbers))))


def _known(error: float) -> float | None:
    """An error of 0 says that all samples, or all groups, agree; of how far others would stray it says nothing."""
    return error or None


def _coverage(samples_by_group: npt.NDArray[np.int64], n: int) -> tuple[float, float | None]:
    """Coverage and its jackknife error; groups differ in size by one, hence the weights of Busing et al. (1999)."""
    total = samples_by_group.sum(axis=0)
    value = float((total > 0).mean())
    without = ((total[None, :] - samples_by_group) > 0).mean(axis=1)
    count = len(without)
    share = n / np.array([len(range(first, n, count)) for first in range(count)])
    pseudo = share * value - (share - 1.0) * without
    centre = count * value - ((1.0 - 1.0 / share) * without).sum()
    return value, _known(float(np.sqrt(np.mean((pseudo - centre) ** 2 / (share - 1.0)))))


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _ROWS, count)) for start in range(0, count, _ROWS))


def _spec(ending: str, extractor: str) -> MetricSpec:
    return MetricSpec(
        keys=tuple(name + ending for name in ("precision", "recall", "density", "coverage")),
        higher_is_better=True,
        extractors=(extractor,),
        needs=frozenset({"reference"}),
        statistics="neighbours",
        reads_images=False,
    )


class Prdc(Neighbourhoods):
    """Precision, recall, density and coverage on Inception-v3's pool3 with the FID weights."""

    extractor = "inception-v3"
    dimensions = 2048
    spec = _spec("", extractor)


@cache
def on_extractor(info: ExtractorInfo) -> type[Metric]:
    """The same four on another extractor's pooled features."""

    class OnExtractor(Neighbourhoods):
        extractor = info.name
        dimensions = info.dimensions
        spec = _spec(f"_{info.key}", info.name)

    return OnExtractor
