"""The Fréchet distance extrapolated to endless images (Chong & Forsyth 2020, arXiv:1911.07023).

The expected distance of n images is, from some n on, d² + b/n with b > 0. As their score_infinity.py does, the distance
is taken at fifteen evenly spaced subset sizes and fitted by least squares against 1/n; the intercept is the score.
Here the smallest size is half of the images, not a tenth (the law bends below), and at each size two subsets
are averaged which together hold every image: then the noise is hardly more than that of the distance itself (by
simulation a quarter more at 2 images a dimension, and at most a seventh from 4 on).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from metricwatch.api import ExtractorInfo, Metric, ScoreState, Value

from .distance import FrechetDistance, frechet_spec
from .distances import FrechetDistances, frechet_distances, jackknife_error, without_each
from .gaussian import Float32, Float64, Gaussian

_SIZES = 15
_SEED = 2020
_PER_DIMENSION = 2
# Below this many images a jackknife of twenty groups understates the noise of skewed features.
_FEWEST = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolation:
    """The fitted distance at 1/n = 0, and the standard error that the scatter about the line gives it."""

    intercept: float
    scatter_error: float


def images_needed(dimensions: int) -> int:
    """How many images an extrapolation takes: two for each dimension, and 200 at the least.

    Half of them can then still span all dimensions. Below that the 1/n law fails: from 1 to 2 images a dimension the
    line overshoots by up to half of the bias. What is left of the bias is below 30% of it at 2 images a dimension
    and about 10% at 4, and less for features with fewer directions than dimensions (simulated for covariances with
    eigenvalues all equal, falling as 1/i and as 1/i²).
    """
    return max(_FEWEST, _PER_DIMENSION * dimensions)


def extrapolate(sizes: npt.NDArray[np.intp], distances: Float64) -> Extrapolation:
    """Least squares of distances against 1/sizes, for three sizes or more."""
    design = np.column_stack((np.ones(len(sizes)), 1.0 / sizes))
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ distances
    residuals = distances - design @ coefficients
    variance = residuals @ residuals / (len(sizes) - 2) * inverse[0, 0]
    return Extrapolation(intercept=float(coefficients[0]), scatter_error=float(np.sqrt(variance)))


def distances_by_size(distances: FrechetDistances, whole: float, n: int) -> tuple[npt.NDArray[np.intp], Float64]:
    """Fifteen subset sizes from n/2 to n, and the mean distance at each.

    The subsets are the first and the last so many of one random order (of a fixed seed): at n/2 two disjoint halves.
    """
    order = np.random.default_rng(_SEED).permutation(n)
    sizes = np.linspace(n / 2, n, _SIZES).astype(np.intp)
    groups = [group for size in sizes[:-1] for group in (order[size:], order[: n - size])]
    parts = without_each(distances, groups).reshape(-1, 2).mean(axis=1)
    return sizes, np.append(parts, whole)


class FrechetInfinity(FrechetDistance):
    """The distance extrapolated to endless images on one extractor. Keeps all features, like the distance itself.

    Needs images_needed(dimensions), or the state is too_few_images. Only the bias of the scored images goes: a
    reference is taken as it is. Noise may push a distance near zero below it. The standard error adds, in squares, the
    distance's jackknife (the correction itself hardly varies) and the scatter about the line; by simulation its
    interval is as honest as the distance's own. Seeded: the same images give the same score.
    """

    def compare(self, features: Float32) -> Sequence[Value]:
        assert self.reference is not None  # noqa: S101 - compute() has seen to it
        n = len(features)
        if n < (needed := images_needed(self.dimensions)):
            detail = f"extrapolating {self.dimensions} dimensions needs {needed} images, got {n}"
            return self.without_value(ScoreState.TOO_FEW_IMAGES, detail)
        distances = frechet_distances(features, Gaussian.from_arrays(self.reference))
        whole = distances.whole()
        line = extrapolate(*distances_by_size(distances, whole, n))
        noise = jackknife_error(distances, whole, n)
        stderr = None if noise is None else float(np.hypot(noise, line.scatter_error))
        return [Value(key=self.spec.keys[0], value=line.intercept, images=n, stderr=stderr)]


class FidInf(FrechetInfinity):
    """FID extrapolated to endless images: from 4096 images on."""

    extractor = "inception-v3"
    dimensions = 2048
    spec = frechet_spec("fid_inf", extractor)


@cache
def infinite_on_extractor(info: ExtractorInfo) -> type[Metric]:
    """The same on another extractor's pooled features."""

    class OnExtractor(FrechetInfinity):
        extractor = info.name
        dimensions = info.dimensions
        spec = frechet_spec(f"fd_inf_{info.key}", info.name)

    return OnExtractor
