"""The kernel distance between the features of two image sets (KID), unbiased, with its closed-form standard error.

Bińkowski et al. 2018, arXiv:1801.01401: the squared maximum mean discrepancy with the kernel k(x, y) = (x·y/D + 1)³,
here over all n samples x and all m reference images y at once:

    KID = Σ k(xᵢ, xⱼ) / n(n-1)  +  Σ k(yᵢ, yⱼ) / m(m-1)  -  2 Σ k(xᵢ, yⱼ) / nm        (i ≠ j in the first two)

Reference implementations average this over random subsets; it is what they give for one subset of everything.

The standard error is that of scoring other samples against the same reference, as the points of a curve do: the
reference's own noise is in all points alike. With the reference held fixed, KID is the mean over pairs i ≠ j of

    Hᵢⱼ = k(xᵢ, xⱼ) - g(xᵢ) - g(xⱼ) + c,    g(x) = mean over y of k(x, y),    c = the reference's own mean,

a U-statistic of order two. By Hoeffding's decomposition (1948, Annals of Mathematical Statistics 19), with
ζ₁ = Var E[H₁₂ | x₁] and ζ₂ = Var H₁₂,

    Var = (4(n-2) ζ₁ + 2 ζ₂) / n(n-1).

E[H₁₂ H₁₃], E[H₁₂²] and (E H₁₂)² are estimated without bias by the means of H over all pairs of pairs that share one
image, two, and none. With H first reduced by its mean (which changes no variance), row sums rᵢ = Σⱼ Hᵢⱼ, R = Σ rᵢ²,
Q = Σ Hᵢⱼ² and (n)ₖ = n(n-1)...(n-k+1) these means are (R - Q) / (n)₃, Q / (n)₂ and (2Q - 4R) / (n)₄, so

    ζ₁ ≈ (R - Q) / (n)₃ - (2Q - 4R) / (n)₄,    ζ₂ ≈ Q / (n)₂ - (2Q - 4R) / (n)₄,

and put into Var they give (4R - 2Q) / (n)₄: without bias for every n >= 4. A variance is not negative, but these
estimates may be: each is taken as 0 then. So the error never vanishes where the samples differ; it comes out too large
where the distance itself is next to 0, by simulation up to a third.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from metricwatch.api import Arrays, ExtractorInfo, FeatureMetric, Metric, MetricSpec, Value

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

# Rows of a tile: with 2048 dimensions two blocks of features and the kernels between them take 42 MB.
_ROWS = 1024
# The variance looks at two pairs that have no image in common.
_ERROR_MINIMUM = 4


class KernelDistance(FeatureMetric):
    """KID's formula on one extractor. Keeps all features (float32, N x D): memory grows with N, time with N (N + M).

    All sums are of float64 kernels, tile by tile. Unbiased, so it may be negative: of a set and itself it is
    -(2/n) (mean of k(x, x) - mean of k(x, x') over x ≠ x'). The standard error is None for fewer than four images. A
    reference's statistics are features (M, D; float32) and kernel_sum (float64, no dimensions), the sum of k over
    pairs i ≠ j; a user's own need features.
    """

    minimum_reason = "an unbiased kernel distance needs 2 images"

    def compare(self, features: Float32) -> Sequence[Value]:
        assert self.reference is not None  # noqa: S101 - compute() has seen to it
        reference = np.asarray(self.reference["features"], dtype=np.float32)
        m = len(reference)
        own = float(np.asarray(self.reference["kernel_sum"])) / (m * (m - 1))
        value, stderr = _distance(features, _kernel_means(features, reference), own)
        return [Value(key=self.spec.keys[0], value=value, images=len(features), stderr=stderr)]

    def summarise(self, features: Float32) -> Arrays:
        total = sum(float(tile.sum()) * (1 if rows == columns else 2) for rows, columns, tile in _pairs(features))
        return {"features": features, "kernel_sum": np.asarray(total, dtype=np.float64)}

    @classmethod
    def complete_statistics(cls, arrays: Arrays) -> Arrays:
        """Accept an array features (M, D) of M >= 2 images; anything else in the file is left alone."""
        return cls().summarise(cls.given_features(arrays, "A kernel distance needs each image's features"))


def _distance(features: Float32, means: Float64, own: float) -> tuple[float, float | None]:
    """KID and its standard error from g(x) of each sample and the reference's c."""
    n = len(features)
    # Half of c goes with each image of a pair, so that H is small and its squares lose no digits.
    offsets = means - own / 2.0
    row_sums = np.zeros(n)
    squares = 0.0
    for rows, columns, kernels in _pairs(features):
        tile = kernels - offsets[rows, None] - offsets[None, columns]
        if rows == columns:
            np.fill_diagonal(tile, 0.0)
        else:
            row_sums[columns] += tile.sum(axis=0)
        row_sums[rows] += tile.sum(axis=1)
        squares += float(np.einsum("ij,ij->", tile, tile)) * (1 if rows == columns else 2)
    value = float(row_sums.sum()) / (n * (n - 1))
    if n < _ERROR_MINIMUM:
        return value, None
    around = row_sums - (n - 1) * value
    return value, _standard_error(float(around @ around), squares - n * (n - 1) * value**2, n)


def _standard_error(rows: float, squares: float, n: int) -> float:
    """From R and Q of n samples, n >= 4."""
    pairs, triples = n * (n - 1), n * (n - 1) * (n - 2)
    apart = (2.0 * squares - 4.0 * rows) / (triples * (n - 3))
    first = max(0.0, (rows - squares) / triples - apart)
    second = max(0.0, squares / pairs - apart)
    return float(np.sqrt((4.0 * (n - 2) * first + 2.0 * second) / pairs))


def _kernel_means(features: Float32, reference: Float32) -> Float64:
    """g(x) for each row of features (n, D): the mean kernel with the rows of reference (m, D)."""
    sums = np.zeros(len(features))
    for rows in _blocks(len(features)):
        block = features[rows].astype(np.float64)
        for columns in _blocks(len(reference)):
            sums[rows] += _kernel(block, reference[columns].astype(np.float64)).sum(axis=1)
    return sums / len(reference)


def _pairs(features: Float32) -> Iterator[tuple[slice, slice, Float64]]:
    """The kernels within a set by tiles on and above the diagonal, k(x, x) as 0: rows, columns, and their kernels."""
    for rows in _blocks(len(features)):
        block = features[rows].astype(np.float64)
        for columns in _blocks(len(features)):
            if columns.start < rows.start:
                continue
            tile = _kernel(block, features[columns].astype(np.float64))
            if rows == columns:
                np.fill_diagonal(tile, 0.0)
            yield rows, columns, tile


def _kernel(one: Float64, other: Float64) -> Float64:
    inner: Float64 = one @ other.T
    inner /= one.shape[1]
    inner += 1.0
    return inner * inner * inner


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _ROWS, count)) for start in range(0, count, _ROWS))


def _spec(key: str, extractor: str) -> MetricSpec:
    return MetricSpec(
        keys=(key,),
        higher_is_better=False,
        extractors=(extractor,),
        needs=frozenset({"reference"}),
        reads_images=False,
    )


class Kid(KernelDistance):
    """KID: the kernel distance on Inception-v3's pool3 with the FID weights."""

    extractor = "inception-v3"
    dimensions = 2048
    spec = _spec("kid", extractor)


@cache
def on_extractor(info: ExtractorInfo) -> type[Metric]:
    """The kernel distance on another extractor's pooled features: never comparable with KID."""

    class OnExtractor(KernelDistance):
        extractor = info.name
        dimensions = info.dimensions
        spec = _spec(f"kd_{info.key}", info.name)

    return OnExtractor
